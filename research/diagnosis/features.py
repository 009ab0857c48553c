"""The features from which it is predicted whether a network trains.

A feature is 0 where nothing speaks against training, and grows with what does. It is a number that
theory knows: how the gradient changes over depth, how far the learning rate is from its ceiling,
how much of a signal still tells examples apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from research.diagnosis import words
from research.diagnosis.depth import BAND
from research.diagnosis.measurement import Measurement, log10_ratio, relative_profile, worst_share

LARGEST = 8.0  # of a feature in powers of ten
DECADES = 10.0  # of the squared gradient, that are one unit
ENOUGH = 1.0  # powers of ten by which a first-order decrease should exceed the loss of chance
SMALL_STEP = 0.1  # an update of so much of a layer's weights is large
MOVED = 1e-3  # a layer that all updates change by less takes no part
EXAMPLES = 1e-2  # the share of a signal below which examples are hard to tell apart


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


def _limit(value: float) -> float:
    """The value between 0 and ``LARGEST``; NaN stays."""
    return min(LARGEST, max(0.0, value)) if not math.isnan(value) else value


def _measure_vanishing(measured: Measurement) -> float:
    profile = relative_profile(measured)
    if profile is None:
        return 0.0
    below = -float(np.min(profile)) - math.log(BAND)
    return _limit(below / math.log(10) / DECADES)


def _explain_vanishing(measured: Measurement) -> str:
    ratio = log10_ratio(measured) or 0.0
    share = words.format_ratio(ratio)
    return f"the gradient vanishes: layer 0 gets {share} of the last layer's squared gradient"


def _measure_exploding(measured: Measurement) -> float:
    profile = relative_profile(measured)
    if profile is None:
        return 0.0
    above = float(np.max(profile)) - math.log(BAND)
    return _limit(above / math.log(10) / DECADES)


def _explain_exploding(measured: Measurement) -> str:
    ratio = log10_ratio(measured) or 0.0
    times = words.format_ratio(ratio)
    return f"the gradient explodes: layer 0 gets {times} times the last layer's squared gradient"


def _measure_collapse(measured: Measurement) -> float:
    if measured.variation is None:
        return 0.0
    last = float(np.asarray(measured.variation)[-1])
    return _limit(math.log10(EXAMPLES) - _log10(last))


def _explain_collapse(measured: Measurement) -> str:
    assert measured.variation is not None
    last = float(np.asarray(measured.variation)[-1])
    return f"the examples are no longer told apart: they differ in {last:.1g} of the last signal"


def _progress(measured: Measurement) -> float:
    """By how much all updates lower the loss to first order.

    In units of the first loss, or of that of chance, whichever is greater.
    """
    greater = max(abs(measured.reference_loss), measured.loss) or 1.0
    return measured.total_updates * measured.decrease / greater


def _measure_slow(measured: Measurement) -> float:
    return _limit(ENOUGH - _log10(_progress(measured)))


def _explain_slow(measured: Measurement) -> str:
    progress = _progress(measured)
    if progress <= 0:
        return "the first update does not lower the loss of another batch"
    return (
        f"the steps are small: to first order all {measured.steps} lower the loss by "
        f"{progress:.2g} of what it is"
    )


def _measure_frozen(measured: Measurement) -> float:
    return 0.0 if measured.update_ratio is None else float(_is_frozen(measured).mean())


def _is_frozen(measured: Measurement) -> np.ndarray:
    """Which layers hardly change in all updates [N]."""
    ratios = np.nan_to_num(np.asarray(measured.update_ratio, float), nan=np.inf)
    return measured.total_updates * ratios < MOVED


def _explain_frozen(measured: Measurement) -> str:
    layers = np.flatnonzero(_is_frozen(measured))
    named = words.name_layers(words.to_ranges(layers))
    return f"{named} would change by less than {words.percent(MOVED)} of the weights in all steps"


def _measure_above_ceiling(measured: Measurement) -> float:
    if measured.ceiling is None:
        return 0.0
    return _limit(_log10(measured.learning_rate / measured.ceiling) + 0.5)


def _explain_above_ceiling(measured: Measurement) -> str:
    rate = measured.learning_rate
    return f"the learning rate {rate:.2g} against its ceiling of {measured.ceiling:.2g}"


def _measure_large_step(measured: Measurement) -> float:
    if measured.update_ratio is None:
        return 0.0
    return _limit(_log10(_largest_ratio(measured) / SMALL_STEP))


def _largest_ratio(measured: Measurement) -> float:
    ratios = np.asarray(measured.update_ratio, float)
    known = ratios[~np.isnan(ratios)]
    return float(known.max()) if len(known) else 0.0


def _explain_large_step(measured: Measurement) -> str:
    largest = words.percent(_largest_ratio(measured))
    return f"the first update changes a layer by {largest} of its weights"


def _measure_overshoot(measured: Measurement) -> float:
    before = max(measured.loss, abs(measured.reference_loss))
    return _limit(_log10(measured.loss_after / before))


def _explain_overshoot(measured: Measurement) -> str:
    after = measured.loss_after
    return f"one update takes the loss from {measured.loss:.3g} to {after:.3g}"


def _measure_start(measured: Measurement) -> float:
    return _limit(_log10(measured.loss / (abs(measured.reference_loss) or 1.0)))


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


def _measure_broken(measured: Measurement) -> float:
    return 0.0 if measured.is_finite else 1.0


def _explain_broken(measured: Measurement) -> str:
    del measured
    return "the first update has numbers that are not finite"


def _measure_trial(measured: Measurement) -> float:
    """How much of the loss remains after the trial, between 0 and 1."""
    if measured.trial is None:
        return 0.0
    losses = np.asarray(measured.trial, float)
    best = min(abs(measured.reference_loss), float(losses[0]))
    remaining = float(losses[-1]) / (best or 1.0)
    return min(2.0, max(0.0, remaining)) if math.isfinite(remaining) else 2.0


def _explain_trial(measured: Measurement) -> str:
    losses = np.asarray(measured.trial, float)
    steps = len(losses) - 1
    return f"{steps} steps on one batch take its loss from {losses[0]:.3g} to {losses[-1]:.3g}"


FEATURES = (
    Feature(
        "vanishing",
        "Tens of decades by which the squared gradient of a layer is below a 10,000th of the last "
        "layer's.",
        _measure_vanishing,
        _explain_vanishing,
    ),
    Feature(
        "exploding",
        "Tens of decades by which it is above 10,000 times the last layer's.",
        _measure_exploding,
        _explain_exploding,
    ),
    Feature(
        "collapse",
        "Decades by which the share of the last signal that differs between examples is below 1 %.",
        _measure_collapse,
        _explain_collapse,
    ),
    Feature(
        "slow",
        "Decades by which all updates, to first order, lower the loss of another batch by less "
        "than ten times what it is.",
        _measure_slow,
        _explain_slow,
    ),
    Feature(
        "frozen",
        "Share of layers that all updates change by less than a thousandth of their weights.",
        _measure_frozen,
        _explain_frozen,
    ),
    Feature(
        "ceiling",
        "Decades by which the learning rate is above a third of 2(1 + β)/λ.",
        _measure_above_ceiling,
        _explain_above_ceiling,
    ),
    Feature(
        "large_step",
        "Decades by which the first update of a layer is above a tenth of its weights.",
        _measure_large_step,
        _explain_large_step,
    ),
    Feature(
        "overshoot",
        "Decades by which the loss after one update is above that before and that of chance.",
        _measure_overshoot,
        _explain_overshoot,
    ),
    Feature(
        "start",
        "Decades by which the first loss is above that of chance.",
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
        "broken",
        "1 where the first update has numbers that are not finite.",
        _measure_broken,
        _explain_broken,
    ),
    Feature(
        "trial",
        "Share of the first loss, or of chance, that remains after the trial steps; at most 2.",
        _measure_trial,
        _explain_trial,
    ),
)
