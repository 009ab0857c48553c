"""From profiles to words: does the gradient vanish or explode, where, and since when.

The healthy band: every layer's squared backward signal lies within a factor ``BAND`` of the last layer's. A critical
network stays inside it by its finite-width fluctuations alone (±5L/n in the logarithm), a vanishing or exploding one
leaves it after a few layers. Slopes are fitted to logarithms of squared norms, which are averaged, never the norms.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from research.diagnosis.advice import advice

BAND = 1e4
CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Fit:
    """A profile of ln‖∂L/∂h_l‖² over depth, relative to the last layer.

    ``factor_per_layer``: of the squared norm, going towards the input, with its 95 % ``interval``. ``ratio``: first
    layer over last, squared norms. ``first_layer``: coming from the output, the first outside the band, or None.
    """

    kind: str
    factor_per_layer: float
    interval: tuple[float, float]
    ratio: float
    log10_ratio: float
    first_layer: int | None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The judgement of a run: ``end`` holds at its end since ``since_step``, ``initial`` held at its first step."""

    kind: str
    since_step: int | None
    end: Fit | None
    initial: Fit | None
    theory: float | None  # the predicted factor per layer at initialisation
    sentence: str
    layer: int | None = None  # where the first value was not finite
    lost_fraction: float | None = None  # of the backward signal, to the number format

    def as_dict(self) -> dict:
        """For ``run.json``: the fit at the end beside the kind, and that at the start below ``initial``."""
        end = dataclasses.asdict(self.end) if self.end else {}
        return end | {
            "kind": self.kind,
            "since_step": self.since_step,
            "first_layer": self.layer if self.layer is not None else end.get("first_layer"),
            "lost_fraction": self.lost_fraction,
            "theory": self.theory,
            "initial": dataclasses.asdict(self.initial) if self.initial else None,
            "sentence": self.sentence,
        }


def skipped_layers(depth: int) -> int:
    """How many layers at the input a fit leaves out: the signal has not reached its fixed point there."""
    return min(5, depth // 4)


def log_profile(signal: np.ndarray) -> np.ndarray:
    """Logarithm of the squared norms relative to the last layer's, [..., N+1]; -inf where nothing arrives."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = 2 * np.log(np.asarray(signal, np.float64))
        return logs - logs[..., -1:]


def fit(profile: np.ndarray, first: int = 0) -> Fit:
    """Fits one log profile, that of the layers from ``first`` on.

    The slope is by least squares. The increments from layer to layer are independent, their sums are not, so the
    interval comes from the increments' spread: the slope of a random walk of m increments with standard deviation s
    has standard error s·√(6/5m) (1.2 s²/m is the variance of a least-squares slope on a random walk, m large).
    """
    slope = _slope(profile)
    margin = _margin(profile)
    total = float(profile[0])
    outside = _first_outside(profile)
    return Fit(
        kind=_kind(profile),
        factor_per_layer=_exp(slope),
        interval=(_exp(slope - margin), _exp(slope + margin))
        if math.isfinite(slope)
        else (0.0, 0.0),
        ratio=_exp(total),
        log10_ratio=total / math.log(10),
        first_layer=None if outside is None else outside + first,
    )


def _exp(value: float) -> float:
    """The exponential, held at the greatest float64 where it would overflow."""
    return math.exp(min(value, 709.0))


def _slope(profile: np.ndarray) -> float:
    """Nats per layer going towards the input, over the layers that something arrives at; -inf for fewer than two."""
    layers = np.arange(len(profile))
    used = np.isfinite(profile) & (layers >= skipped_layers(len(profile) - 1))
    return -float(np.polyfit(layers[used], profile[used], 1)[0]) if used.sum() > 1 else -math.inf


def _margin(profile: np.ndarray) -> float:
    arriving = profile[skipped_layers(len(profile) - 1) :]
    steps = np.diff(arriving[np.isfinite(arriving)])
    if len(steps) < 2:
        return math.inf
    from scipy.special import stdtrit  # a third of a second to import

    quantile = stdtrit(len(steps) - 1, 0.5 + CONFIDENCE / 2)
    return float(quantile * np.std(steps, ddof=1) * math.sqrt(1.2 / len(steps)))


def _first_outside(profile: np.ndarray) -> int | None:
    outside = np.flatnonzero(~(np.abs(profile) <= math.log(BAND)))
    return int(outside[-1]) if len(outside) else None


def _kind(profile: np.ndarray) -> str:
    first = _first_outside(profile)
    if first is None:
        return "healthy"
    if np.isneginf(
        profile[first]
    ):  # from inside the band to exactly 0 within one layer: cut off, not faded
        return "dead"
    return "vanishing" if profile[first] < 0 else "exploding"


def judge(
    steps: np.ndarray,
    signal: np.ndarray,
    *,
    settings: Mapping[str, object],
    theory: float | None = None,
    diverged: tuple[int, int | None] | None = None,
    first: int = 0,
) -> Verdict:
    """Judges a run by ``signal_grad`` [S, N+1], measured at ``steps`` [S].

    Args:
        steps: the measured steps, ascending.
        signal: ‖∂L/∂h_l‖ for each of them.
        settings: the run's configuration by dotted path, which the remedy is taken from.
        theory: the predicted factor per layer at initialisation, if there is a prediction.
        diverged: the (step, layer) of the first value that was not finite.
        first: the first layer that is judged: 1 where the signal begins with a constant, of which nothing can learn.
    """
    kept = np.isfinite(signal).all(axis=1)
    steps = steps[kept]
    signal = signal[kept]
    silent = signal[:, -1] == 0
    profiles = log_profile(signal)[:, first:]
    initial = fit(profiles[0], first) if len(steps) and not silent[0] else None
    if diverged:
        step, layer = diverged
        sentence = _diverged_sentence(step, layer) + advice("diverged", settings, step)
        return Verdict("diverged", step, None, initial, theory, sentence, layer)
    kinds = [
        "dead" if quiet else _kind(profile) for quiet, profile in zip(silent, profiles, strict=True)
    ]
    if not len(steps) or silent[-1]:
        since = int(steps[_since(kinds, "dead")]) if len(steps) else None
        sentence = f"dead: no gradient leaves the loss since step {since}." + advice(
            "dead", settings, since
        )
        return Verdict("dead", since, None, initial, theory, sentence)
    end = fit(_mean_of_last(profiles[~silent]), first)
    verdict = Verdict(end.kind, int(steps[_since(kinds, end.kind)]), end, initial, theory, "")
    sentence = _sentence(verdict, signal.shape[1] - 1, first) + advice(
        end.kind, settings, verdict.since_step
    )
    return dataclasses.replace(verdict, sentence=sentence)


def _mean_of_last(profiles: np.ndarray) -> np.ndarray:
    """The mean log profile over the last tenth of the measured steps."""
    return profiles[-max(1, len(profiles) // 10) :].mean(axis=0)


def _since(kinds: list[str], kind: str) -> int:
    since = len(kinds) - 1
    while since > 0 and kinds[since - 1] == kind:
        since -= 1
    return since


def _sentence(verdict: Verdict, depth: int, first: int) -> str:
    """In words; without the factor per layer where fewer than two increments leave no interval for it."""
    end = verdict.end
    initial = verdict.initial
    assert end
    words = [
        f"{verdict.kind}: the first layer receives {ratio_in_words(end.log10_ratio)} the squared gradient of the last"
    ]
    several = depth - first > 1
    if several:
        low, high = end.interval
        words.append(
            f"{_factor(end.factor_per_layer)} a layer (95 % {_factor(low)} to {_factor(high)})"
        )
    if several and initial and verdict.theory is not None:
        words.append(
            f"at initialisation {_factor(initial.factor_per_layer)}, theory {_factor(verdict.theory)}"
        )
    if end.first_layer is not None:
        words.append(f"outside the healthy band from layer {end.first_layer} of {depth} down")
    if verdict.since_step or verdict.kind != "healthy":
        words.append(f"since step {verdict.since_step}")
    return "; ".join(words) + "."


def _factor(value: float) -> str:
    """Three digits; of a factor close to 1, three of its distance from 1: deep networks live there."""
    digits = (
        3
        if value <= 0 or abs(value - 1) >= 0.01
        else min(9, 3 - math.floor(math.log10(abs(value - 1) + 1e-9)))
    )
    return f"{value:.{digits}g}"


def ratio_in_words(log10: float) -> str:
    """10 to this power, as so many times."""
    if not math.isfinite(log10):
        return "0 times"
    return f"{10**log10:.3g} times" if abs(log10) < 4 else f"1e{log10:+.0f} times"


def _diverged_sentence(step: int, layer: int | None) -> str:
    where = "" if layer is None else f", first in layer {layer}"
    return f"diverged: the numbers stop being finite at step {step}{where}."
