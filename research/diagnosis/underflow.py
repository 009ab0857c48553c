"""Findings about the number format: what it removed from the signal and from the gradient.

Counts of the gradient's elements in float32 distinguish underflow from vanishing; where they were
not made, an estimate from the norms does. A signal that is too small in the forward pass is a
finding of its own, because a loss scale does not change it.
"""

import math
from collections.abc import Sequence

import numpy as np

from research.diagnosis import findings, words
from research.diagnosis.findings import Finding, LayerRange, Severity
from research.diagnosis.observed import Observed, Profile, Settings
from research.gauges.numbering import nearest_layers
from research.theory.formats import (
    FORMATS,
    log_mean_square,
    option_name,
    smallest_safe_loss_scale,
)

NARROW_RANGE = ("float16", "mixed_float16", "float8_e4m3", "float8_e5m2", "float4_e2m1")
NOTICED = 0.1  # a layer that loses a larger fraction of its gradient suffers from underflow
NOTICED_ESTIMATE = 0.3  # the same for an estimate
PRESERVED = 0.99
FAR_ABOVE = 2.0**40  # no layer makes a signal so many times smaller
NORMAL_INPUT = 1e-3  # a signal that starts below this is small because its input is


def find_format_findings(observed: Observed, settings: Settings) -> list[Finding]:
    """What the number format removed; at most one finding for each direction.

    Args:
        observed: the measurements of the run.
        settings: its configuration by dotted path.
    """
    forward = None if has_own_scale(settings) else find_forward_underflow(observed)
    if forward is not None:
        return [forward]
    backward = _find_counted(observed, settings)
    if backward is None and not _has_counts(observed):
        backward = _find_estimated(observed, settings)
        if backward is None:
            backward = _say_not_measured(observed, settings)
    return [] if backward is None else [backward]


def has_own_scale(settings: Settings) -> bool:
    """Whether arrays or blocks have a scale of their own, so that their absolute size is free."""
    return bool(settings.get("precision.tensor_scale") or settings.get("precision.block_scale"))


def mean_lost(observed: Observed) -> float | None:
    """The mean over layers of the fraction of the gradient that the format removed at the last
    count; None where nothing was counted.
    """
    if not _has_counts(observed):
        return None
    last = observed.exponents[max(observed.exponents)]["signal_lost"]
    return float(np.nanmean(last)) if np.any(last >= 0) else None


def find_forward_underflow(observed: Observed) -> Finding | None:
    """Layers whose forward signal is below the smallest numbers of the format."""
    activations = observed.profiles.get("activation_rms")
    if activations is None or not len(activations):
        return None
    rows = np.asarray(activations, np.float64)
    limit = 2.0 ** (FORMATS[observed.format_].underflow + 2)
    is_small = (rows <= limit) & (rows[:, :1] > NORMAL_INPUT)
    is_affected = np.any(is_small, axis=1)
    if not is_affected[-1] or _is_switched_off(rows[-1], limit):
        return None
    first = _first_of_last_run(is_affected.tolist())
    ranges = words.to_ranges(nearest_layers(np.flatnonzero(is_small[-1])))
    smallest = float(rows[-1, is_small[-1]].min())
    size = f"about {smallest:.1g}" if smallest > 0 else "zero"
    steps = observed.profiles["step"]
    since = words.name_steps(int(steps[first]), None, int(steps[0]))
    return Finding(
        kind=findings.FORWARD_UNDERFLOW,
        severity=Severity.severe,
        text=(
            f"the signal of {words.name_layers(ranges)} is {size} {since}, and "
            f"{option_name(observed.format_)} rounds numbers below {limit / 4:.1g} to zero. "
            "A loss scale does not change the forward pass."
        ),
        first_step=int(steps[first]),
        layers=ranges,
        evidence={"smallest_rms": smallest, "limit": limit / 4},
    )


def _is_switched_off(sizes: np.ndarray, limit: float) -> bool:
    """Whether a layer puts out exactly zero although its input is far from the smallest numbers.

    Args:
        sizes: the root mean square of each signal [N+1].
        limit: the smallest numbers of the format.
    """
    zeros = np.flatnonzero(sizes == 0)
    if not len(zeros) or zeros[0] == 0:
        return False
    return bool(sizes[zeros[0] - 1] > FAR_ABOVE * limit)


def _has_counts(observed: Observed) -> bool:
    last = max(observed.exponents, default=None)
    return last is not None and "signal_lost" in observed.exponents[last]


def _find_counted(observed: Observed, settings: Settings) -> Finding | None:
    """Underflow from the counted exponents. The last count decides."""
    if not _has_counts(observed) or settings.get("precision.stochastic_gradients"):
        return None  # what is rounded stochastically is not lost on average
    steps = sorted(observed.exponents)
    last = observed.exponents[steps[-1]]
    is_losing = last["signal_lost"] > NOTICED
    if not is_losing.any():
        return None
    ranges = words.to_ranges(nearest_layers(np.flatnonzero(is_losing)))
    share = float(np.mean(last["signal_lost"][is_losing]))
    holds = [_has_underflow(observed.exponents[step]) for step in steps]
    first_step = steps[_first_of_last_run(holds)]
    parts = [
        _lost_in_layers(ranges, share, observed.format_),
        _sufficient_loss_scale(last, observed.format_, settings),
        _ratio_in_float32(last),
    ]
    text = "; ".join(part for part in parts if part)
    is_fitted = observed.is_fitted(steps[-1])
    return Finding(
        kind=findings.UNDERFLOW,
        severity=Severity.note if is_fitted else Severity.severe,
        text=f"{text}{_fitted_in_words(is_fitted)}. {_since(first_step, steps[0])}.",
        first_step=first_step,
        layers=ranges,
        evidence={"lost_fraction": share},
    )


def _since(first_step: int, start: int) -> str:
    """From which step on something holds, as a sentence without its full stop."""
    return words.capitalize(words.name_steps(first_step, None, start))


def _fitted_in_words(is_fitted: bool) -> str:
    if not is_fitted:
        return ""
    return "; the training data are fitted, so this gradient has little left to teach"


def _find_estimated(observed: Observed, settings: Settings) -> Finding | None:
    """Underflow from the norms, as if the elements of each layer's gradient were Gaussian."""
    signals = observed.profiles.get("signal_grad")
    is_narrow = settings.get("precision.kind") in NARROW_RANGE
    if not is_narrow or signals is None or not len(signals) or not observed.signal_elements:
        return None
    if has_own_scale(settings):
        return None
    lost = _estimate_lost(observed, np.asarray(signals, np.float64))
    is_affected = np.any(lost > NOTICED_ESTIMATE, axis=1)
    if not is_affected[-1] or observed.is_fitted():
        return None
    is_losing = lost[-1] > NOTICED_ESTIMATE
    ranges = words.to_ranges(nearest_layers(np.flatnonzero(is_losing)))
    share = float(np.mean(lost[-1, is_losing]))
    steps = observed.profiles["step"]
    first_step = int(steps[_first_of_last_run(is_affected.tolist())])
    text = (
        f"about {words.percent(share)} of the gradient of {words.name_layers(ranges)} is rounded "
        f"to zero in {option_name(observed.format_)}, estimated from its norm; measure=full counts "
        "it"
    )
    return Finding(
        kind=findings.UNDERFLOW,
        severity=Severity.severe,
        text=f"{text}. {_since(first_step, int(steps[0]))}.",
        first_step=first_step,
        layers=ranges,
        evidence={"lost_fraction": share, "is_estimate": 1.0},
    )


def _estimate_lost(observed: Observed, signals: np.ndarray) -> np.ndarray:
    """The fraction of each layer's gradient that is rounded to zero, [S, N+1].

    A layer without a gradient below one that loses some of it has lost all.
    """
    from scipy.special import erf  # this import takes a third of a second

    assert observed.signal_elements
    limit = 2.0 ** FORMATS[observed.format_].underflow
    scale = _loss_scales(observed)
    root_mean_square = signals * scale[:, None] / math.sqrt(observed.signal_elements)
    with np.errstate(divide="ignore", over="ignore"):
        lost = erf(limit / (math.sqrt(2) * root_mean_square))
    lost[signals == 0] = 0.0
    from_last = np.maximum.accumulate(lost[:, ::-1], axis=1)
    most_above = from_last[:, ::-1]  # of a signal, the largest fraction of it and of those above
    is_lost = (signals == 0) & (most_above > NOTICED / 2)
    return np.where(is_lost, 1.0, lost)


def _loss_scales(observed: Observed) -> np.ndarray:
    """The loss scale at each measured step, [S]."""
    measured = np.asarray(observed.profiles["step"])
    steps, scales = observed.series("loss_scale")
    if not len(scales):
        return np.ones(len(measured))
    rows = np.searchsorted(steps, measured)
    return scales[np.minimum(rows, len(scales) - 1)]


def _say_not_measured(observed: Observed, settings: Settings) -> Finding | None:
    """A note where the format is narrow, and neither counts nor norms say what it lost."""
    if settings.get("precision.kind") not in NARROW_RANGE:
        return None
    return Finding(
        kind=findings.NOT_MEASURED,
        severity=Severity.note,
        text=f"what {option_name(observed.format_)} loses was not counted; measure=full counts it.",
    )


def _has_underflow(profile: Profile) -> bool:
    return bool(np.any(profile["signal_lost"] > NOTICED))


def _first_of_last_run(holds: Sequence[bool]) -> int:
    """The index from which on a condition holds until the end."""
    first = len(holds)
    while first > 0 and holds[first - 1]:
        first -= 1
    return first


def _lost_in_layers(
    ranges: Sequence[LayerRange],
    share: float,
    format_: str,
) -> str:
    where = words.name_layers(ranges)
    lost = words.percent(share)
    name = option_name(format_)
    return f"{lost} of the gradient of {where} is zero in {name} but not in float32"


def _sufficient_loss_scale(
    profile: Profile,
    format_: str,
    settings: Settings,
) -> str:
    """Which loss scale would be enough; empty where each tensor has its scale anyway."""
    if has_own_scale(settings):
        return ""
    percent = f"{100 * PRESERVED:.0f} %"
    histogram = profile["signal_exponent_float32"]
    scale = smallest_safe_loss_scale(histogram, format_, PRESERVED)
    if scale is None:
        return f"no loss scale would keep {percent} without overflow"
    return f"a loss scale of 2^{int(np.log2(scale))} would keep {percent}"


def _ratio_in_float32(profile: Profile) -> str:
    """The first layer's squared gradient over the last layer's; empty where either is zero."""
    logs = log_mean_square(profile["signal_exponent_float32"])
    first = logs[0]
    last = logs[-1]
    if not (np.isfinite(first) and np.isfinite(last)):
        return ""
    ratio = words.format_ratio((first - last) / np.log(10))
    return (
        f"in float32 the input of layer 0 gets {ratio} times the squared gradient of the last layer"
    )
