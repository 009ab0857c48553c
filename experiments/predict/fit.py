"""Fits the coefficients of ``research.diagnosis.coefficients`` and judges them.

    python experiments/predict/fit.py

reads ``corpus.csv``, the features and final losses of all configurations, and prints the
coefficients and what comes of them on both sets. ``corpus.py`` makes that table.

How strongly weights are held back is chosen by cross-validation: each program of the set to fit is
predicted from the others, so that no runs of one program are on both sides.
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
OF_TRIAL = ("trial", "stalled", "rough")
# On the squared weight of a feature in units of its standard deviation, over all configurations.
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)
MODELS = {"WITHOUT_TRIAL": False, "WITH_TRIAL": True}  # whether the trial is used, by name
LEAST_PROBABILITY = 1e-4  # an outcome that was ruled out counts as this
LEAST_WEIGHT = 0.005  # smaller ones are left out
NUMBERS = [feature.name for feature in FEATURES]


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


def fit(
    rows: Sequence[Row],
    *,
    with_trial: bool,
    penalty: float,
) -> Coefficients:
    """The logistic model of largest likelihood whose weights are not negative.

    Args:
        rows: the configurations.
        with_trial: whether the features of the trial are used.
        penalty: how strongly weights are held back.
    """
    names = [name for name in NUMBERS if with_trial or name not in OF_TRIAL]
    columns = []
    for name in names:
        columns.append([row.features[name] for row in rows])
    values = np.asarray(columns).T
    signs = np.asarray([1.0 if row.has_trained else -1.0 for row in rows])
    centre = values.mean(axis=0)
    spread = values.std(axis=0) + 1e-9
    scaled = (values - centre) / spread

    def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        weights = numbers[1:]
        margins = signs * (numbers[0] - scaled @ weights)
        slopes = -signs / (1 + np.exp(np.minimum(margins, 500)))
        of_weights = 2 * penalty * weights - slopes @ scaled
        total = np.logaddexp(0, -margins).sum() + penalty * (weights**2).sum()
        return float(total), np.concatenate([[slopes.sum()], of_weights])

    start = np.zeros(len(names) + 1)
    bounds = [(None, None), *[(0, None)] * len(names)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    unscaled = found[1:] / spread
    weights = {}
    for name, weight in zip(names, unscaled, strict=True):
        if weight >= LEAST_WEIGHT:
            weights[name] = round(float(weight), 2)
    return Coefficients(round(float(found[0] + centre @ unscaled), 2), weights)


def cross_validate(
    rows: Sequence[Row],
    *,
    with_trial: bool,
    penalty: float,
) -> list[float]:
    """The probability of each configuration by the model fitted to all other programs.

    Args:
        rows: the configurations.
        with_trial: whether the features of the trial are used.
        penalty: how strongly weights are held back.
    """
    fitted = {}
    for program in {row.program for row in rows}:
        others = [row for row in rows if row.program != program]
        fitted[program] = fit(others, with_trial=with_trial, penalty=penalty)
    return [probability_of(row.features, fitted[row.program]) for row in rows]


def choose_penalty(rows: Sequence[Row]) -> float:
    """The penalty whose cross-validated probabilities, of both models, are the likeliest."""
    outcomes = [row.has_trained for row in rows]

    def surprise(penalty: float) -> float:
        total = 0.0
        for with_trial in MODELS.values():
            predicted = cross_validate(rows, with_trial=with_trial, penalty=penalty)
            total += judge(predicted, outcomes).surprise
        return total

    return min(PENALTIES, key=surprise)


@dataclass(frozen=True)
class Judgement:
    """How good predictions are.

    Attributes:
        count: the configurations.
        decided: the share with a probability of at least ``TRAINS`` or at most ``FAILS``.
        right: the share of these that is right.
        brier: the mean squared difference between probability and outcome.
        surprise: the mean of −ln of the probability of what happened.
    """

    count: int
    decided: float
    right: float
    brier: float
    surprise: float


def judge(probabilities: Sequence[float], outcomes: Sequence[bool]) -> Judgement:
    """Compares predictions with what happened."""
    predicted = np.asarray(probabilities)
    trained = np.asarray(outcomes, float)
    is_decided = (predicted >= declared.TRAINS) | (predicted <= declared.FAILS)
    is_right = (predicted > 0.5) == (trained > 0.5)
    right = float(is_right[is_decided].mean()) if is_decided.any() else float("nan")
    brier = float(np.mean((predicted - trained) ** 2))
    of_outcome = np.where(trained > 0.5, predicted, 1 - predicted)
    surprise = float(-np.log(np.maximum(of_outcome, LEAST_PROBABILITY)).mean())
    return Judgement(len(predicted), float(is_decided.mean()), right, brier, surprise)


def probabilities(rows: Sequence[Row], coefficients: Coefficients) -> list[float]:
    """What the model says of configurations."""
    return [probability_of(row.features, coefficients) for row in rows]


def main() -> None:
    """Prints the coefficients, and their judgement on both sets and in the cross-validation."""
    fitted = read_rows("fit")
    held_out = read_rows("held_out")
    outcomes = [row.has_trained for row in fitted]
    penalty = choose_penalty(fitted)
    print("penalty", penalty)
    for name, with_trial in MODELS.items():
        coefficients = fit(fitted, with_trial=with_trial, penalty=penalty)
        print(f"{name} = {coefficients}")
        predicted = cross_validate(fitted, with_trial=with_trial, penalty=penalty)
        print("programs of the fit, each from the others", judge(predicted, outcomes))
        for purpose, rows in (("fit", fitted), ("held out", held_out)):
            trained = [row.has_trained for row in rows]
            print(purpose, judge(probabilities(rows, coefficients), trained))


if __name__ == "__main__":
    main()
