"""Whether a network will train, from what is known of it before it does.

The probability is that of a logistic model, P = σ(intercept − Σ weight·feature), whose weights are
not negative: more of what speaks against training never makes it likelier. The numbers of the model
are in ``research.diagnosis.coefficients``.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from research.diagnosis import words
from research.diagnosis.coefficients import WITH_TRIAL, WITHOUT_TRIAL, Coefficients
from research.diagnosis.features import FEATURES, LARGEST
from research.diagnosis.measurement import (
    Measurement,
    factor_per_layer,
    hidden_layer,
    log10_ratio,
    worst_share,
)

MOST_REASONS = 3
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
            "loss_after": measured.loss_after,
            "decrease": measured.decrease,
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
    log_odds = coefficients.intercept
    for feature in FEATURES:
        value = features[feature.name]
        lowered = coefficients.weights.get(feature.name, 0.0) * value
        log_odds -= lowered
        if lowered >= LEAST_REASON:
            reasons.append(Reason(feature.name, value, lowered, feature.explain(measured)))
    reasons.sort(key=_weight, reverse=True)
    return Preflight(sigmoid(log_odds), measured, features, reasons)


def _weight(reason: Reason) -> float:
    return reason.log_odds


def measure_features(measured: Measurement) -> dict[str, float]:
    """Every feature by its name; where one cannot be computed, its largest value."""
    features = {}
    for feature in FEATURES:
        value = feature.measure(measured)
        features[feature.name] = value if math.isfinite(value) else LARGEST
    return features


def probability(features: dict[str, float], coefficients: Coefficients) -> float:
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
