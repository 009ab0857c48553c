"""From profiles to words: does the gradient vanish or explode, where, and since when.

The healthy band: every layer's squared backward signal lies within a factor ``BAND`` of the last layer's. A critical
network stays inside it by its finite-width fluctuations alone (±5L/n in the logarithm), a vanishing or exploding one
leaves it after a few layers. Slopes are fitted to logarithms of squared norms, which are averaged, never the norms.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from scipy.special import stdtrit

BAND = 1e4
CONFIDENCE = 0.95
ABRUPT = 1e-30  # a norm that falls from above this to exactly 0 within one layer has not faded: it was cut


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

    def as_dict(self) -> dict:
        """For ``run.json``: the fit at the end beside the kind, and that at the start below ``initial``."""
        end = dataclasses.asdict(self.end) if self.end else {}
        return end | {
            "kind": self.kind,
            "since_step": self.since_step,
            "first_layer": self.layer if self.layer is not None else end.get("first_layer"),
            "theory": self.theory,
            "initial": dataclasses.asdict(self.initial) if self.initial else None,
            "sentence": self.sentence,
        }


def skipped_layers(depth: int) -> int:
    """How many layers at the input a fit leaves out: the signal has not reached its fixed point there."""
    return min(5, depth // 4)


def log_profile(signal: np.ndarray) -> np.ndarray:
    """Ln of the squared norms relative to the last layer's, [..., N+1]; -inf where nothing arrives."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = 2 * np.log(np.asarray(signal, np.float64))
        return logs - logs[..., -1:]


def fit(profile: np.ndarray) -> Fit:
    """Fits one log profile [N+1].

    The slope is by least squares. The increments from layer to layer are independent, their sums are not, so the
    interval comes from the increments' spread: the slope of a random walk of m increments with standard deviation s
    has standard error s·√(6/5m) (1.2 s²/m is the variance of a least-squares slope on a random walk, m large).
    """
    steps = -np.diff(profile[skipped_layers(len(profile) - 1) :])
    finite = steps[np.isfinite(steps)]
    slope, margin = _slope(profile), _margin(finite)
    total = float(profile[0])
    return Fit(
        kind=_kind(profile),
        factor_per_layer=math.exp(slope),
        interval=(math.exp(slope - margin), math.exp(slope + margin)),
        ratio=math.exp(min(total, 700.0)),
        log10_ratio=total / math.log(10),
        first_layer=_first_outside(profile),
    )


def _slope(profile: np.ndarray) -> float:
    """Nats per layer going towards the input, over the layers that something arrives at."""
    layers = np.arange(len(profile))
    used = np.isfinite(profile) & (layers >= skipped_layers(len(profile) - 1))
    if used.sum() < 2:
        return -math.inf if not np.isfinite(profile[0]) else 0.0
    return -float(np.polyfit(layers[used], profile[used], 1)[0])


def _margin(steps: np.ndarray) -> float:
    if len(steps) < 2:
        return math.inf
    quantile = stdtrit(len(steps) - 1, 0.5 + CONFIDENCE / 2)
    return float(quantile * np.std(steps, ddof=1) * math.sqrt(1.2 / len(steps)))


def _first_outside(profile: np.ndarray) -> int | None:
    outside = np.flatnonzero(~(np.abs(profile) <= math.log(BAND)))
    return int(outside[-1]) if len(outside) else None


def _kind(profile: np.ndarray) -> str:
    first = _first_outside(profile)
    if first is None:
        return "healthy"
    if np.isneginf(profile[first]) and 2 * math.log(ABRUPT) < profile[first + 1]:
        return "dead"
    return "vanishing" if profile[first] < 0 else "exploding"


def judge(
    steps: np.ndarray,
    signal: np.ndarray,
    *,
    settings: Mapping[str, object],
    theory: float | None = None,
    diverged: tuple[int, int | None] | None = None,
) -> Verdict:
    """Judges a run by ``signal_grad`` [S, N+1], measured at ``steps`` [S].

    Args:
        steps: the measured steps, ascending.
        signal: ‖∂L/∂h_l‖ for each of them.
        settings: the run's configuration by dotted path, which the remedy is taken from.
        theory: the predicted factor per layer at initialisation, if there is a prediction.
        diverged: the (step, layer) of the first value that was not finite.
    """
    alive = (signal[:, -1] > 0) & np.isfinite(signal).all(axis=1) if len(steps) else np.zeros(0, bool)
    steps, profiles = steps[alive], log_profile(signal[alive])
    initial = fit(profiles[0]) if len(steps) else None
    if diverged:
        step, layer = diverged
        sentence = _diverged_sentence(step, layer, settings)
        return Verdict("diverged", step, None, initial, theory, sentence, layer)
    if not len(steps):
        return Verdict("dead", None, None, None, theory, "dead: no gradient leaves the loss at any measured step.")
    end = fit(_mean_of_last(profiles))
    since = _since([_kind(profile) for profile in profiles], end.kind)
    verdict = Verdict(end.kind, int(steps[since]), end, initial, theory, "")
    return dataclasses.replace(verdict, sentence=_sentence(verdict, len(profiles[0]) - 1, settings))


def _mean_of_last(profiles: np.ndarray) -> np.ndarray:
    """The mean log profile over the last tenth of the measured steps."""
    return profiles[-max(1, len(profiles) // 10) :].mean(axis=0)


def _since(kinds: list[str], kind: str) -> int:
    since = len(kinds) - 1
    while since > 0 and kinds[since - 1] == kind:
        since -= 1
    return since


def _sentence(verdict: Verdict, depth: int, settings: Mapping[str, object]) -> str:
    end, initial = verdict.end, verdict.initial
    assert end and initial
    words = [f"{verdict.kind}: the first layer receives {_ratio(end.log10_ratio)} the squared gradient of the last"]
    low, high = end.interval
    words.append(f"{_factor(end.factor_per_layer)} a layer (95 % {_factor(low)} to {_factor(high)})")
    if verdict.theory is not None:
        words.append(f"at initialisation {_factor(initial.factor_per_layer)}, theory {_factor(verdict.theory)}")
    if end.first_layer is not None:
        words.append(f"outside the healthy band from layer {end.first_layer} of {depth} down")
    if verdict.since_step or verdict.kind != "healthy":
        words.append(f"since step {verdict.since_step}")
    return "; ".join(words) + "." + _remedy(verdict.kind, settings)


def _factor(value: float) -> str:
    """Three digits; of a factor close to 1, three of its distance from 1: deep networks live there."""
    digits = 3 if value <= 0 or abs(value - 1) >= 0.01 else min(9, 3 - math.floor(math.log10(abs(value - 1) + 1e-9)))
    return f"{value:.{digits}g}"


def _ratio(log10: float) -> str:
    if not math.isfinite(log10):
        return "0 times"
    return f"{10**log10:.3g} times" if abs(log10) < 4 else f"1e{log10:+.0f} times"


def _diverged_sentence(step: int, layer: int | None, settings: Mapping[str, object]) -> str:
    where = "" if layer is None else f", first in layer {layer}"
    return f"diverged: the numbers stop being finite at step {step}{where}." + _remedy("diverged", settings)


def _remedy(kind: str, settings: Mapping[str, object]) -> str:
    depth, skip, norm = settings["model.depth"], settings["skip.kind"], settings["norm.kind"]
    plain = f" Depth {depth} without skip connections: try "
    match kind:
        case "vanishing" if settings["activation.kind"] == "sigmoid" and skip == "none":
            return plain + "skip=inv_sqrt_depth; the sigmoid's slope is at most 1/4, so no init.gain near 1 can help."
        case "vanishing" if skip == "none":
            return plain + "skip=inv_sqrt_depth, init=orthogonal or a larger init.gain."
        case "vanishing":
            return " Try skip.shortcut_scale=1 or skip=identity: the shortcut loses what it multiplies by less than 1."
        case "exploding" if skip == "none" and norm == "batch":
            return plain + "skip=identity: batch norm alone multiplies the squared gradient by 1.2 to 1.5 a layer."
        case "exploding" if skip == "none":
            return plain + "skip=inv_sqrt_depth, or a smaller init.gain."
        case "exploding":
            return " Unscaled branches add up with depth: try skip=inv_sqrt_depth or skip=rezero."
        case "dead":
            return f" Units are silent for every input: try a smaller optimizer.learning_rate (now {_rate(settings)})."
        case "diverged":
            return f" Try a smaller optimizer.learning_rate (now {_rate(settings)}) or optimizer.clip=global_norm."
    return ""


def _rate(settings: Mapping[str, object]) -> str:
    return f"{settings['optimizer.learning_rate']:g}"
