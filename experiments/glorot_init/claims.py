"""Thresholds of normalised initialisation, set before the runs."""

import math
from collections.abc import Sequence

from research.records.queries import at_best_rate, final, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

SCHEMES = {
    "old_uniform": ("U(±1/√n)", 1 / 3),
    "glorot_uniform": ("normalised", 1.0),
}  # name: (in words, σ_w²)
FACTORS = {"old_uniform": (0.28, 0.34), "glorot_uniform": (0.65, 0.95)}
CHANCE = math.log(10)  # the loss of equal shares of ten classes
SOURCE = "Glorot & Bengio 2010"


def initial(runs: Sequence[Run], activation: str, scheme: str) -> list[Run]:
    """The runs that are measured at initialisation, one a seed."""
    return where(runs, {"data.name": "noise", "activation.kind": activation, "init.kind": scheme})


def trained(runs: Sequence[Run], activation: str) -> list[Run]:
    """The runs on digits, of every learning rate."""
    return where(runs, {"data.name": "digits", "activation.kind": activation})


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Factor and ratio of tanh networks, a layer's singular values, the sigmoid's bound, and who trains."""
    return [
        *(_factor(runs, scheme) for scheme in SCHEMES),
        _ratio(runs, "old_uniform", "≤ 1e-4 on every seed", 0, 1e-4),
        _ratio(runs, "glorot_uniform", "≥ 1e-2 on every seed", 1e-2, math.inf),
        *(_singular(runs, scheme) for scheme in SCHEMES),
        *(_sigmoid(runs, scheme) for scheme in SCHEMES),
        _stalls(runs),
        *(_trains(runs, activation) for activation in ("tanh", "relu")),
    ]


def _factors(runs: Sequence[Run], activation: str, scheme: str) -> list[float]:
    return [
        run.info["verdict"]["initial"]["factor_per_layer"]
        for run in initial(runs, activation, scheme)
    ]


def _factor(runs: Sequence[Run], scheme: str) -> Claim:
    low, high = FACTORS[scheme]
    values = _factors(runs, "tanh", scheme)
    return claim(
        f"tanh, {SCHEMES[scheme][0]}: factor of the squared gradient a layer",
        source=f"{SOURCE}, Fig. 7",
        expected=f"within {low} to {high} on every seed",
        values=values,
        holds=low <= min(values) and max(values) <= high,
    )


def _ratio(runs: Sequence[Run], scheme: str, expected: str, low: float, high: float) -> Claim:
    values = [run.info["verdict"]["initial"]["ratio"] for run in initial(runs, "tanh", scheme)]
    return claim(
        f"tanh, {SCHEMES[scheme][0]}, 10 layers: squared gradient, first layer over last",
        source=f"{SOURCE}, Fig. 7",
        expected=expected,
        values=values,
        holds=low <= min(values) and max(values) <= high,
    )


def _singular(runs: Sequence[Run], scheme: str) -> Claim:
    """Of a square matrix of independent entries of variance σ_w²/n: 8σ_w/(3π), by the quarter-circle law."""
    words, variance = SCHEMES[scheme]
    theory = 8 * math.sqrt(variance) / (3 * math.pi)
    spectra = [run.inspections["jacobian_spectrum"][0] for run in initial(runs, "linear", scheme)]
    values = [float(spectrum.mean()) for spectrum in spectra]
    return claim(
        f"{words}: mean singular value of a layer's Jacobian where the nonlinearity has slope 1",
        source=f"{SOURCE}, §4.2.1",
        expected=f"{theory:.3f} ± 0.02 = 8σ_w/(3π) on every seed",
        values=values,
        holds=max(abs(value - theory) for value in values) <= 0.02,
    )


def _sigmoid(runs: Sequence[Run], scheme: str) -> Claim:
    """The slope is at most 1/4, and close to it where the units are not saturated."""
    words, variance = SCHEMES[scheme]
    values = [factor / (variance / 16) for factor in _factors(runs, "sigmoid", scheme)]
    return claim(
        f"sigmoid, {words}: factor of the squared gradient a layer over its bound σ_w²/16 = {variance / 16:.4f}",
        source=SOURCE,
        expected="within 0.8 to 1.0 on every seed",
        values=values,
        holds=min(values) >= 0.8 and max(values) <= 1,
    )


def _stalls(runs: Sequence[Run]) -> Claim:
    values = [final(run, "train_loss") for run in trained(runs, "sigmoid")]
    return claim(
        "sigmoid, 6 hidden layers, 300 steps on digits: training loss, every learning rate",
        source=SOURCE,
        expected="2.303 ± 0.03 = ln 10 on every seed",
        values=values,
        holds=max(abs(value - CHANCE) for value in values) <= 0.03,
    )


def _trains(runs: Sequence[Run], activation: str) -> Claim:
    best = at_best_rate(trained(runs, activation))
    values = [final(run, "train_loss") for run in best]
    return claim(
        f"{activation}, 6 hidden layers, 300 steps on digits: training loss at the best of three learning rates",
        source=SOURCE,
        expected="< 0.05 on every seed",
        values=values,
        holds=max(values) < 0.05,
    )
