"""Fits the coefficients of ``research.diagnosis.coefficients`` and judges them.

    python experiments/predict/fit.py

reads ``corpus.csv``, the features and final losses of all configurations, and prints the
coefficients and what comes of them on both sets. ``corpus.py`` makes that table.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from research.diagnosis.coefficients import Coefficients
from research.diagnosis.features import FEATURES
from research.diagnosis.preflight import probability_of
from research.reproduce.experiments import load_module

declared = load_module("predict", "declared")
TABLE = Path(__file__).with_name("corpus.csv")
TRIAL = "trial"
PENALTY = 0.01  # on squared weights, for each configuration: it keeps them finite
NUMBERS = {feature.name for feature in FEATURES}


@dataclass(frozen=True)
class Row:
    """One configuration.

    Attributes:
        purpose: ``fit`` or ``held_out``.
        program: which configurations share a program.
        settings: its settings as words.
        features: by name.
        loss: its final loss; NaN where it diverged.
    """

    purpose: str
    program: str
    settings: str
    features: Mapping[str, float]
    loss: float

    @property
    def has_trained(self) -> bool:
        """Whether its final loss is better than chance by the declared margin."""
        return declared.has_trained(self.loss)


def read_rows(purpose: str) -> list[Row]:
    """The configurations of one set."""
    rows = []
    with TABLE.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            features = {name: float(line[name]) for name in NUMBERS}
            row = Row(
                line["purpose"],
                line["program"],
                line["settings"],
                features,
                float(line["final_loss"]),
            )
            if row.purpose == purpose:
                rows.append(row)
    return rows


def fit(rows: Sequence[Row], *, with_trial: bool) -> Coefficients:
    """The logistic model of largest likelihood whose weights are not negative.

    Args:
        rows: the configurations.
        with_trial: whether the trial is a feature.
    """
    names = [feature.name for feature in FEATURES if with_trial or feature.name != TRIAL]
    values = np.asarray([[row.features[name] for name in names] for row in rows])
    signs = np.asarray([1.0 if row.has_trained else -1.0 for row in rows])

    def loss(numbers: np.ndarray) -> float:
        log_odds = numbers[0] - values @ numbers[1:]
        surprise = np.logaddexp(0, -signs * log_odds)
        return float(surprise.mean() + PENALTY * (numbers[1:] ** 2).mean())

    bounds = [(None, None), *[(0, None)] * len(names)]
    found = minimize(loss, np.ones(len(names) + 1), method="L-BFGS-B", bounds=bounds)
    weights = {}
    for name, weight in zip(names, found.x[1:], strict=True):
        if weight >= 0.005:
            weights[name] = round(float(weight), 2)
    return Coefficients(round(float(found.x[0]), 2), weights)


@dataclass(frozen=True)
class Judgement:
    """How good predictions are.

    Attributes:
        count: the configurations.
        decided: the share with a probability of at least ``TRAINS`` or at most ``FAILS``.
        right: the share of these that is right.
        brier: the mean squared difference between probability and outcome.
    """

    count: int
    decided: float
    right: float
    brier: float


def judge(probabilities: Sequence[float], outcomes: Sequence[bool]) -> Judgement:
    """Compares predictions with what happened."""
    predicted = np.asarray(probabilities)
    trained = np.asarray(outcomes, float)
    is_decided = (predicted >= declared.TRAINS) | (predicted <= declared.FAILS)
    is_right = (predicted > 0.5) == (trained > 0.5)
    right = float(is_right[is_decided].mean()) if is_decided.any() else float("nan")
    brier = float(np.mean((predicted - trained) ** 2))
    return Judgement(len(predicted), float(is_decided.mean()), right, brier)


def probabilities(rows: Sequence[Row], coefficients: Coefficients) -> list[float]:
    """What the model says of configurations."""
    return [probability_of(row.features, coefficients) for row in rows]


def main() -> None:
    """Prints the coefficients and their judgement."""
    fitted = read_rows("fit")
    held_out = read_rows("held_out")
    for name, with_trial in (("WITHOUT_TRIAL", False), ("WITH_TRIAL", True)):
        coefficients = fit(fitted, with_trial=with_trial)
        print(f"{name} = {coefficients}")
        for purpose, rows in (("fit", fitted), ("held out", held_out)):
            outcomes = [row.has_trained for row in rows]
            print(purpose, judge(probabilities(rows, coefficients), outcomes))


if __name__ == "__main__":
    main()
