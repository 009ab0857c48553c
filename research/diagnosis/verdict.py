"""The verdict on a run: whether the gradient vanishes or explodes, where, and since when.

The healthy band: every layer's squared backward signal is within a factor ``BAND`` of the last
layer's. A critical network stays inside it: its finite width makes the logarithm fluctuate only by
about ±5L/n. In a vanishing or exploding network the signal leaves the band after a few layers.
Slopes are fitted to logarithms of squared norms, and these logarithms are averaged, never the
norms.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from research.diagnosis.advice import advice

BAND = 1e4
CONFIDENCE = 0.95
# The variance of a least-squares slope on a random walk of m increments, in units of s²/m, where s
# is the standard deviation of an increment; for large m.
RANDOM_WALK_SLOPE_VARIANCE = 1.2


@dataclasses.dataclass(frozen=True)
class Fit:
    """A profile of ln‖∂L/∂h_l‖² over depth, relative to the last layer.

    ``factor_per_layer``: the factor on the squared norm from one layer to the layer below, with its
    95 % ``interval``. ``ratio``: first layer over last, squared norms. ``first_layer``: the first
    layer outside the band, coming from the output; None where all layers are inside.
    """

    kind: str
    factor_per_layer: float
    interval: tuple[float, float]
    ratio: float
    log10_ratio: float
    first_layer: int | None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The judgement of a run.

    ``end`` describes its last steps and has held since ``since_step``; ``initial`` describes its
    first step.
    """

    kind: str
    since_step: int | None
    end: Fit | None
    initial: Fit | None
    theory: float | None  # the predicted factor per layer at initialisation
    sentence: str
    layer: int | None = None  # where the first non-finite value was
    lost_fraction: float | None = None  # of the backward signal, to the number format

    def as_dict(self) -> dict:
        """The entries of ``run.json``: the fit of the last steps, and ``initial`` of the first."""
        end = dataclasses.asdict(self.end) if self.end else {}
        initial = dataclasses.asdict(self.initial) if self.initial else None
        first_layer = end.get("first_layer") if self.layer is None else self.layer
        return end | {
            "kind": self.kind,
            "since_step": self.since_step,
            "first_layer": first_layer,
            "lost_fraction": self.lost_fraction,
            "theory": self.theory,
            "initial": initial,
            "sentence": self.sentence,
        }


def skipped_layers(depth: int) -> int:
    """How many layers at the input a fit leaves out.

    The signal has not reached its fixed point there.
    """
    return min(5, depth // 4)


def log_profile(signal: np.ndarray) -> np.ndarray:
    """The logarithm of the squared norms relative to the last layer's, [..., N+1].

    It is -inf where no gradient arrives.
    """
    signal = np.asarray(signal, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = 2 * np.log(signal)
        return logs - logs[..., -1:]


def fit(profile: np.ndarray, start_layer: int = 0) -> Fit:
    """Fits one log profile whose first entry belongs to the layer ``start_layer``.

    The slope is by least squares. The increments from layer to layer are independent, their sums
    are not. So the interval comes from the spread of the increments: the slope of a random walk of
    m increments with standard deviation s has the standard error s·√(6/5m), because 1.2 s²/m is the
    variance of a least-squares slope on a random walk for large m.
    """
    slope = _slope(profile)
    half_width = _slope_half_width(profile)
    interval = (0.0, 0.0)
    if math.isfinite(slope):
        interval = (_exp(slope - half_width), _exp(slope + half_width))
    log_ratio = float(profile[0])
    outside = _first_outside(profile)
    return Fit(
        kind=_kind(profile),
        factor_per_layer=_exp(slope),
        interval=interval,
        ratio=_exp(log_ratio),
        log10_ratio=log_ratio / math.log(10),
        first_layer=None if outside is None else outside + start_layer,
    )


def _exp(value: float) -> float:
    """The exponential, limited to the largest float64 where it would overflow."""
    return math.exp(min(value, 709.0))


def _slope(profile: np.ndarray) -> float:
    """Nats per layer towards the input, over layers with a gradient; -inf for fewer than two."""
    layers = np.arange(len(profile))
    is_fitted = layers >= skipped_layers(len(profile) - 1)
    is_fitted = is_fitted & np.isfinite(profile)
    if is_fitted.sum() < 2:
        return -math.inf
    coefficients = np.polyfit(layers[is_fitted], profile[is_fitted], 1)
    return -float(coefficients[0])


def _slope_half_width(profile: np.ndarray) -> float:
    """Half the width of the slope's interval, in nats per layer.

    It is infinite for fewer than two increments.
    """
    fitted = profile[skipped_layers(len(profile) - 1) :]
    increments = np.diff(fitted[np.isfinite(fitted)])
    count = len(increments)
    if count < 2:
        return math.inf
    from scipy.special import stdtrit  # this import takes a third of a second

    quantile = stdtrit(count - 1, 0.5 + CONFIDENCE / 2)
    deviation = np.std(increments, ddof=1)
    return float(quantile * deviation * math.sqrt(RANDOM_WALK_SLOPE_VARIANCE / count))


def _first_outside(profile: np.ndarray) -> int | None:
    """The layer outside the band that is nearest to the output."""
    is_inside = np.abs(profile) <= math.log(BAND)
    outside = np.flatnonzero(~is_inside)
    return int(outside[-1]) if len(outside) else None


def _kind(profile: np.ndarray) -> str:
    outside = _first_outside(profile)
    if outside is None:
        return "healthy"
    # A gradient that falls from inside the band to exactly 0 within one layer did not fade: it was
    # cut off.
    if np.isneginf(profile[outside]):
        return "dead"
    return "vanishing" if profile[outside] < 0 else "exploding"


@dataclasses.dataclass(frozen=True)
class _Measured:
    """The finite measurements of a run: their steps [S] and log profiles [S, layers]."""

    steps: np.ndarray
    profiles: np.ndarray
    is_silent: np.ndarray  # [S]: no gradient arrives even at the last layer
    start_layer: int

    def fit_first(self) -> Fit | None:
        """The fit of the first step, where there is a gradient."""
        if not len(self.steps) or self.is_silent[0]:
            return None
        return fit(self.profiles[0], self.start_layer)

    def fit_last(self) -> Fit:
        """The fit of the mean log profile over the last tenth of the steps with a gradient."""
        profiles = self.profiles[~self.is_silent]
        count = max(1, len(profiles) // 10)
        return fit(profiles[-count:].mean(axis=0), self.start_layer)

    def ends_silent(self) -> bool:
        return not len(self.steps) or bool(self.is_silent[-1])

    def since_step(self, kind: str) -> int | None:
        """The first of the last steps of this kind; the last step counts as one of them."""
        if not len(self.steps):
            return None
        since = len(self.steps) - 1
        while since > 0 and self._kind_at(since - 1) == kind:
            since -= 1
        return int(self.steps[since])

    def _kind_at(self, row: int) -> str:
        return "dead" if self.is_silent[row] else _kind(self.profiles[row])


def judge(
    steps: np.ndarray,
    signal: np.ndarray,
    *,
    settings: Mapping[str, object],
    theory: float | None = None,
    diverged: tuple[int, int | None] | None = None,
    start_layer: int = 0,
) -> Verdict:
    """Judges a run by ``signal_grad``.

    Args:
        steps: the measured steps [S], ascending.
        signal: ‖∂L/∂h_l‖ [S, N+1] at these steps.
        settings: the run's configuration by dotted path, on which the advice depends.
        theory: the predicted factor per layer at initialisation, if there is a prediction.
        diverged: the (step, layer) of the first non-finite value.
        start_layer: the first layer that is judged. It is 1 where h_0 is a constant, from which
            nothing can learn.
    """
    verdict = classify(
        steps,
        signal,
        theory=theory,
        diverged=diverged,
        start_layer=start_layer,
    )
    since = verdict.since_step
    if diverged:
        sentence = _diverged_sentence(*diverged)
    elif verdict.end is None:
        sentence = dead_sentence(since)
    else:
        last_layer = signal.shape[1] - 1
        sentence = _sentence(verdict, verdict.end, last_layer, start_layer)
    sentence += advice(verdict.kind, settings, since)
    return dataclasses.replace(verdict, sentence=sentence)


def classify(
    steps: np.ndarray,
    signal: np.ndarray,
    *,
    theory: float | None = None,
    diverged: tuple[int, int | None] | None = None,
    start_layer: int = 0,
) -> Verdict:
    """The verdict without its sentence; arguments as for ``judge``."""
    is_finite = np.isfinite(signal).all(axis=1)
    signal = signal[is_finite]
    measured = _Measured(
        steps=steps[is_finite],
        profiles=log_profile(signal)[:, start_layer:],
        is_silent=signal[:, -1] == 0,
        start_layer=start_layer,
    )
    initial = measured.fit_first()
    if diverged:
        step, layer = diverged
        return Verdict(
            kind="diverged",
            since_step=step,
            end=None,
            initial=initial,
            theory=theory,
            sentence="",
            layer=layer,
        )
    if measured.ends_silent():
        return Verdict(
            kind="dead",
            since_step=measured.since_step("dead"),
            end=None,
            initial=initial,
            theory=theory,
            sentence="",
        )
    end = measured.fit_last()
    return Verdict(
        kind=end.kind,
        since_step=measured.since_step(end.kind),
        end=end,
        initial=initial,
        theory=theory,
        sentence="",
    )


def _sentence(
    verdict: Verdict,
    end: Fit,
    depth: int,
    start_layer: int,
) -> str:
    """The verdict in words.

    It has no factor per layer where fewer than two increments leave no interval for it.
    """
    ratio = ratio_in_words(end.log10_ratio)
    parts = [
        f"{verdict.kind}: the first layer receives {ratio} the squared gradient of the last",
    ]
    if depth - start_layer > 1:
        parts.append(factor_in_words(end))
        if verdict.initial and verdict.theory is not None:
            measured = _format_factor(verdict.initial.factor_per_layer)
            predicted = _format_factor(verdict.theory)
            parts.append(f"at initialisation {measured}, theory {predicted}")
    if end.first_layer is not None:
        parts.append(f"outside the healthy band from layer {end.first_layer} of {depth} down")
    if verdict.since_step or verdict.kind != "healthy":
        parts.append(f"since step {verdict.since_step}")
    return "; ".join(parts) + "."


def factor_in_words(end: Fit) -> str:
    """The fitted factor per layer with its interval."""
    low, high = end.interval
    factor = _format_factor(end.factor_per_layer)
    return f"{factor} a layer (95 % {_format_factor(low)} to {_format_factor(high)})"


def _format_factor(value: float) -> str:
    """Three digits; for a factor close to 1, three digits of its distance from 1."""
    distance = abs(value - 1)
    if value <= 0 or distance >= 0.01:
        return f"{value:.3g}"
    digits = 3 - math.floor(math.log10(distance + 1e-9))
    return f"{value:.{min(9, digits)}g}"


def ratio_in_words(log10: float) -> str:
    """10 to the power ``log10``, as ``… times``."""
    if not math.isfinite(log10):
        return "0 times"
    if abs(log10) < 4:
        return f"{10**log10:.3g} times"
    return f"1e{log10:+.0f} times"


def dead_sentence(since: int | None) -> str:
    """The verdict on a run in which no gradient arrives at the last layer."""
    return f"dead: no gradient leaves the loss since step {since}."


def _diverged_sentence(step: int, layer: int | None) -> str:
    where = "" if layer is None else f", first in layer {layer}"
    return f"diverged: the numbers stop being finite at step {step}{where}."
