"""The features from which it is predicted whether a network trains.

A feature is 0 where nothing speaks against training, and grows with what does. It is a number with
a physical meaning: how far all updates get to first order, whether that tells examples apart, how
much of a signal examples have in common. Losses are counted from the least possible loss, which is
not 0 with label smoothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from research.diagnosis import words
from research.diagnosis.measurement import Measurement, worst_share

LARGEST = 8.0  # of a feature in powers of ten
TRAINED = 0.9  # a run trains if its loss ends below so much of that of chance
LEAST_NEEDED = 0.02  # of the loss of chance, so that a loss that starts low needs something
ENOUGH = 1.0  # powers of ten by which what a first update foresees should exceed what is needed
ENOUGH_OF_TRIAL = 1.5  # the same of the trial
MOST_DECADES = 1.0  # of a feature that decides at this size already
DISTINCT = 10**-0.5  # the share of a signal below which examples are hard to tell apart
COMMON = 0.1  # what examples should have in common of a signal
MEMORIZED = 0.97  # of the loss of chance: what a batch falls to if only its labels are counted
END = 3  # of the trial, that are its end


@dataclass(frozen=True)
class Feature:
    """Something that speaks against training.

    Attributes:
        name: its key in the coefficients and in ``--json``.
        meaning: what the number is.
        measure: computes it; 0 where nothing of it was measured.
        explain: says it in words.
    """

    name: str
    meaning: str
    measure: Callable[[Measurement], float]
    explain: Callable[[Measurement], str]


def measure_features(measured: Measurement) -> dict[str, float]:
    """Every feature by its name; where one cannot be computed, its largest value."""
    features = {}
    for feature in FEATURES:
        value = float(feature.measure(measured))
        features[feature.name] = value if math.isfinite(value) else LARGEST
    return features


def _log10(value: float) -> float:
    """The logarithm, limited so that 0 and infinity have one; NaN stays."""
    if math.isnan(value):
        return value
    if value <= 0:
        return -300.0
    return math.log10(min(value, 1e300))


def _shortfall(value: float, enough: float) -> float:
    """By how many powers of ten a value is below ``enough`` of them, at most twice; NaN stays."""
    return _limit(enough - _log10(value), 2 * enough)


def _limit(value: float, most: float = LARGEST) -> float:
    """The value between 0 and ``most``; NaN stays."""
    return min(most, max(0.0, value)) if not math.isnan(value) else value


def _measure_scattered(measured: Measurement) -> float:
    if measured.variation is None:
        return 0.0
    common = 1 - float(np.asarray(measured.variation)[-1])
    return _limit(math.log10(COMMON) - _log10(common), MOST_DECADES)


def _explain_scattered(measured: Measurement) -> str:
    assert measured.variation is not None
    common = 1 - float(np.asarray(measured.variation)[-1])
    return (
        f"similar examples are no longer alike: they have {common:.1g} of the last signal in common"
    )


def _measure_collapse(measured: Measurement) -> float:
    if measured.variation is None:
        return 0.0
    last = float(np.asarray(measured.variation)[-1])
    return _limit(math.log10(DISTINCT) - _log10(last), MOST_DECADES)


def _explain_collapse(measured: Measurement) -> str:
    assert measured.variation is not None
    last = float(np.asarray(measured.variation)[-1])
    return f"the examples are hard to tell apart: they differ in {last:.1g} of the last signal"


def _needed(measured: Measurement) -> float:
    """How far the first loss is above the loss from which on a run counts as trained."""
    reference = measured.learnable_loss or 1.0
    loss = measured.loss - measured.least_loss
    return max(loss - TRAINED * reference, LEAST_NEEDED * reference)


def _progress(measured: Measurement) -> float:
    """By how much all updates lower the loss to first order, over what is needed."""
    return measured.total_updates * measured.decrease / _needed(measured)


def _measure_slow(measured: Measurement) -> float:
    return _shortfall(_progress(measured), ENOUGH)


def _explain_slow(measured: Measurement) -> str:
    progress = _progress(measured)
    if progress <= 0:
        return "the first update does not lower the loss of another batch"
    return (
        f"the steps are small: to first order all {measured.steps} lower the loss by "
        f"{progress:.2g} times what is needed"
    )


def _distinction(measured: Measurement) -> float:
    """By how much all updates tell examples apart to first order, over what is needed."""
    reference = measured.learnable_loss or 1.0
    distinct = measured.decrease - (measured.common_decrease or 0.0)
    return measured.total_updates * distinct / ((1 - TRAINED) * reference)


def _measure_alike(measured: Measurement) -> float:
    return _shortfall(_distinction(measured), ENOUGH)


def _explain_alike(measured: Measurement) -> str:
    distinction = max(0.0, _distinction(measured))
    return (
        "the updates change all outputs alike: to first order, what they do to tell examples apart "
        f"is {distinction:.2g} times what is needed"
    )


def _measure_overshoot(measured: Measurement) -> float:
    before = max(measured.loss - measured.least_loss, measured.learnable_loss) or 1.0
    after = measured.loss_after - measured.least_loss
    return _limit(_log10(after / before), MOST_DECADES)


def _explain_overshoot(measured: Measurement) -> str:
    before = measured.loss if measured.other_loss is None else measured.other_loss
    after = measured.loss_after
    return f"one update takes the loss of another batch from {before:.3g} to {after:.3g}"


def _measure_start(measured: Measurement) -> float:
    loss = measured.loss - measured.least_loss
    return _limit(_log10(loss / (measured.learnable_loss or 1.0)))


def _explain_start(measured: Measurement) -> str:
    times = measured.loss / (abs(measured.reference_loss) or 1.0)
    return f"the loss starts at {times:.2g} times that of chance"


def _measure_lost(measured: Measurement) -> float:
    if measured.run_lost is None:
        return 0.0
    return worst_share(measured.run_lost) or 0.0


def _explain_lost(measured: Measurement) -> str:
    share = words.percent(_measure_lost(measured))
    return f"the number format turns {share} of a layer's gradient to zero"


def _measure_trial(measured: Measurement) -> float:
    """How much of the loss remains after the trial, between 0 and 1."""
    if measured.trial is None:
        return 0.0
    end = _trial_end(measured) - measured.least_loss
    remaining = end / (MEMORIZED * (measured.learnable_loss or 1.0))
    return min(1.0, max(0.0, remaining)) if math.isfinite(remaining) else 1.0


def _trial_end(measured: Measurement) -> float:
    """The mean of the last losses of the trial."""
    return float(np.asarray(measured.trial, float)[-END:].mean())


def _explain_trial(measured: Measurement) -> str:
    losses = np.asarray(measured.trial, float)
    steps = len(losses) - 1
    return f"{steps} steps on one batch take its loss from {losses[0]:.3g} to {losses[-1]:.3g}"


def _measure_stalled(measured: Measurement) -> float:
    if measured.trial is None:
        return 0.0
    missing = _missing(measured)
    if missing <= 0:
        return 0.0
    return _shortfall(_projection(measured) / missing, ENOUGH_OF_TRIAL)


def _missing(measured: Measurement) -> float:
    """How far the end of the trial is above the loss from which on a run counts as trained."""
    return _trial_end(measured) - measured.least_loss - TRAINED * measured.learnable_loss


def _projection(measured: Measurement) -> float:
    """By how much the loss would still fall if it went on as in the second half of the trial."""
    losses = np.asarray(measured.trial, float)
    window = max(1, len(losses) // 4)
    middle = (len(losses) - window) // 2
    loss_at_middle = losses[middle : middle + window].mean()
    loss_at_end = losses[-window:].mean()
    fall = loss_at_middle - loss_at_end
    slope = float(fall) / (len(losses) - window - middle)
    return slope * max(0, measured.steps - len(losses) + 1)


def _explain_stalled(measured: Measurement) -> str:
    fall = _projection(measured)
    return (
        f"as the trial ended, the other steps would lower the loss by {fall:.2g}; needed are "
        f"{_missing(measured):.2g}"
    )


def _measure_rough(measured: Measurement) -> float:
    """What the loss rose during the trial, over all its changes."""
    if measured.trial is None:
        return 0.0
    changes = np.diff(np.asarray(measured.trial, float))
    total = float(np.abs(changes).sum())
    if not math.isfinite(total):
        return 1.0
    return float(np.maximum(changes, 0).sum()) / total if total > 0 else 1.0


def _explain_rough(measured: Measurement) -> str:
    share = words.percent(_measure_rough(measured))
    return f"{share} of how the loss changed in the trial was upwards"


FEATURES = (
    Feature(
        "collapse",
        "Decades by which the share of the last signal that differs between examples is below "
        "32 %; at most 1.",
        _measure_collapse,
        _explain_collapse,
    ),
    Feature(
        "scattered",
        "Decades by which the share of the last signal that examples have in common is below a "
        "tenth; at most 1.",
        _measure_scattered,
        _explain_scattered,
    ),
    Feature(
        "slow",
        "Decades by which all updates, to first order, lower the loss of another batch by less "
        "than ten times what is needed; at most 2.",
        _measure_slow,
        _explain_slow,
    ),
    Feature(
        "alike",
        "Decades by which that part of it that tells examples apart is less than the loss of "
        "chance; at most 2.",
        _measure_alike,
        _explain_alike,
    ),
    Feature(
        "overshoot",
        "Decades by which the loss of another batch after one update is above that of the first "
        "batch before it and that of chance; at most 1.",
        _measure_overshoot,
        _explain_overshoot,
    ),
    Feature(
        "start",
        "Decades by which the first loss is above that of chance; at most 8.",
        _measure_start,
        _explain_start,
    ),
    Feature(
        "lost",
        "Share of a layer's gradient that the number format turns to zero, in the worst layer.",
        _measure_lost,
        _explain_lost,
    ),
    Feature(
        "trial",
        "Share of 97 % of the loss of chance that remains after the trial steps; at most 1.",
        _measure_trial,
        _explain_trial,
    ),
    Feature(
        "stalled",
        "Decades by which the other steps, at the slope of the trial's second half, lower its loss "
        "by less than 32 times what is needed; at most 3.",
        _measure_stalled,
        _explain_stalled,
    ),
    Feature(
        "rough",
        "Share of the changes of the loss in the trial, by size, that are upwards.",
        _measure_rough,
        _explain_rough,
    ),
)
