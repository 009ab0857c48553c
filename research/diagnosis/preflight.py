"""Whether a network will train, from what is known of it before it does.

The probability is that of a logistic model, P = σ(intercept − Σ weight·feature), whose weights are
not negative: more of what speaks against training never makes it likelier. The numbers of the model
are in ``research.diagnosis.coefficients``.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from research.diagnosis import words
from research.diagnosis.coefficients import WITH_TRIAL, WITHOUT_TRIAL, Coefficients
from research.diagnosis.features import FEATURES, measure_features
from research.diagnosis.measurement import (
    Measurement,
    factor_per_layer,
    hidden_layer,
    log10_ratio,
    worst_share,
)

MOST_REASONS = 3
LEAST_LOST = 1e-3  # share of a gradient, that is worth a word
LEAST_REASON = 0.5  # of the logarithm of the odds, that a reason takes


@dataclass(frozen=True)
class Reason:
    """A feature that speaks against training.

    Attributes:
        feature: its name.
        value: its number.
        log_odds: by how much it lowers the logarithm of the odds that the network trains.
        text: what was measured, in words.
    """

    feature: str
    value: float
    log_odds: float
    text: str


@dataclass(frozen=True)
class Preflight:
    """What is expected of a network before it trains. ``str`` is a report.

    Attributes:
        probability: that it trains: that its loss is better than chance at the end.
        measured: what this was computed from.
        features: every feature by its name.
        reasons: the features that speak against training, the weightiest first.
    """

    probability: float
    measured: Measurement
    features: dict[str, float]
    reasons: list[Reason]

    @property
    def sentence(self) -> str:
        """The probability with its reasons, in one or two sentences."""
        steps = self.measured.steps
        chance = words.percent(self.probability)
        text = f"It trains within {steps} steps with a probability of {chance}."
        if not self.reasons:
            return f"{text} Nothing that was measured speaks against it."
        listed = "; ".join(reason.text for reason in self.reasons[:MOST_REASONS])
        verb = "Against it speaks" if self.probability > 0.5 else "What decides"
        return f"{text} {verb}: {listed}."

    def __str__(self) -> str:
        return "\n".join([self.sentence, *describe(self.measured)])

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        measured = self.measured
        theory = measured.theory
        return {
            "probability": self.probability,
            "steps": measured.steps,
            "sentence": self.sentence,
            "reasons": [dataclasses.asdict(reason) for reason in self.reasons],
            "features": self.features,
            "factor_per_layer": factor_per_layer(measured),
            "theory": None if theory is None else theory.factor,
            "log10_ratio": log10_ratio(measured),
            "learning_rate": measured.learning_rate,
            "ceiling": measured.ceiling,
            "sharpness": measured.sharpness,
            "variation": None if measured.variation is None else float(measured.variation[-1]),
            "hidden_layer": hidden_layer(measured),
            "lost": {name: worst_share(shares) for name, shares in measured.lost.items()},
            "loss": measured.loss,
            "chance_loss": measured.chance_loss,
            "least_loss": measured.least_loss,
            "loss_after": measured.loss_after,
            "other_loss": measured.other_loss,
            "decrease": measured.decrease,
            "common_decrease": measured.common_decrease,
            "trial": measured.trial,
        }


def predict_training(measured: Measurement) -> Preflight:
    """Whether a network will train.

    Args:
        measured: what was measured of it before training; with a trial the coefficients are those
            that were fitted with one.
    """
    coefficients = WITHOUT_TRIAL if measured.trial is None else WITH_TRIAL
    features = measure_features(measured)
    reasons = []
    for feature in FEATURES:
        value = features[feature.name]
        lowered = coefficients.weights.get(feature.name, 0.0) * value
        if lowered >= LEAST_REASON:
            reasons.append(Reason(feature.name, value, lowered, feature.explain(measured)))
    reasons.sort(key=_weight, reverse=True)
    if not math.isfinite(measured.loss):
        explanation = f"the loss is {measured.loss} before the first update"
        reasons = [Reason("start", features["start"], math.inf, explanation)]
    return Preflight(probability_of(features, coefficients), measured, features, reasons)


def _weight(reason: Reason) -> float:
    return reason.log_odds


def probability_of(features: Mapping[str, float], coefficients: Coefficients) -> float:
    """The probability of the logistic model.

    Args:
        features: by name.
        coefficients: its numbers.
    """
    log_odds = coefficients.intercept
    for name, weight in coefficients.weights.items():
        log_odds -= weight * features[name]
    return sigmoid(log_odds)


def sigmoid(log_odds: float) -> float:
    """1/(1 + exp(−x)), without overflow."""
    return 0.5 * (1 + math.tanh(log_odds / 2))


def describe(measured: Measurement) -> list[str]:
    """What was measured, one line for each subject.

    Args:
        measured: what was measured.
    """
    lines = [
        _describe_depth(measured),
        _describe_rate(measured),
        _describe_examples(measured),
        _describe_epsilon(measured),
        _describe_formats(measured),
        _describe_update(measured),
        _describe_trial(measured),
    ]
    return [*(line for line in lines if line), *measured.notes]


def _describe_depth(measured: Measurement) -> str:
    factor = factor_per_layer(measured)
    if factor is None:
        return ""
    text = f"factor per layer: {words.format_factor(factor)}"
    theory = measured.theory
    if theory is not None:
        text += f" (theory {words.format_factor(theory.factor)}"
        if 0 < theory.margin < theory.factor:
            text += f" ± {theory.margin:.1g}"
        text += ")"
    ratio = log10_ratio(measured)
    assert ratio is not None
    share = words.format_ratio(ratio)
    return f"{text}; the input of layer 0 gets {share} of the last layer's squared gradient"


def _describe_rate(measured: Measurement) -> str:
    if measured.sharpness is None:
        return ""
    rate = f"{measured.learning_rate:.3g}"
    if not measured.learning_rate:
        rate = "not known, because the first update is 0"
    text = f"learning rate: {rate}; sharpness λ = {measured.sharpness:.3g}"
    if measured.ceiling is None:
        return f"{text}, whose ceiling 2(1 + β)/λ is not that of this optimizer"
    formula = "2(1 + β)/((1 + 2β)λ)" if measured.is_nesterov else "2(1 + β)/λ"
    return f"{text}, so its ceiling {formula} is {measured.ceiling:.3g}"


def _describe_examples(measured: Measurement) -> str:
    if measured.variation is None:
        return ""
    first = float(measured.variation[0])
    last = float(measured.variation[-1])
    return f"examples: they differ in {first:.2g} of the first signal, {last:.2g} of the last"


def _describe_epsilon(measured: Measurement) -> str:
    if measured.epsilon is None:
        return ""
    layer = hidden_layer(measured)
    if layer is None:
        return f"ε = {measured.epsilon:.1g}: no layer's gradient is below it"
    return (
        f"ε = {measured.epsilon:.1g}: the gradients of layers 0–{layer} are below it, so their "
        "updates vanish with the gradient"
    )


def _describe_formats(measured: Measurement) -> str:
    losing = []
    for name, shares in measured.lost.items():
        share = worst_share(shares)
        if share is not None and share >= LEAST_LOST:
            losing.append(f"{name} {words.percent(share)}")
    if not measured.lost:
        return ""
    if not losing:
        return "formats: none turns more than a thousandth of a layer's gradient to zero"
    return f"formats turn to zero, of the gradient of the worst layer: {', '.join(losing)}"


def _describe_update(measured: Measurement) -> str:
    other = measured.other_loss
    before = "" if other is None else f"{other:.4g} → "
    text = (
        f"first update: loss {measured.loss:.4g}; of another batch {before}"
        f"{measured.loss_after:.4g}, to first order lower by {measured.decrease:.2g}"
    )
    if measured.common_decrease is None:
        return text
    distinct = measured.decrease - measured.common_decrease
    return f"{text}, of which {distinct:.2g} by telling examples apart"


def _describe_trial(measured: Measurement) -> str:
    if measured.trial is None:
        return ""
    first = float(measured.trial[0])
    last = float(measured.trial[-1])
    return f"{len(measured.trial) - 1} steps on one batch: loss {first:.4g} → {last:.4g}"
