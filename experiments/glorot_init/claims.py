"""Claims about normalised initialisation; their thresholds were set before the runs."""

import dataclasses
import math
from collections.abc import Sequence

from research.records.queries import at_best_rate, final_values, initial_factors, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed

CHANCE = math.log(10)  # the loss of equal shares of ten classes
SOURCE = "Glorot & Bengio 2010"


@dataclasses.dataclass(frozen=True)
class Scheme:
    """An initialisation: its setting, its name in words, and σ_w²."""

    init: str
    words: str
    variance: float


OLD = Scheme("old_uniform", "U(±1/√n)", 1 / 3)
NORMALISED = Scheme("glorot_uniform", "normalised", 1.0)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The gradient of tanh networks, singular values, the sigmoid's bound, and what trains."""
    return [
        _factor(runs, OLD, 0.28, 0.34),
        _factor(runs, NORMALISED, 0.65, 0.95),
        _ratio(runs, OLD, "≤ 1e-4 on every seed", 0, 1e-4),
        _ratio(runs, NORMALISED, "≥ 1e-2 on every seed", 1e-2, math.inf),
        _singular(runs, OLD),
        _singular(runs, NORMALISED),
        _sigmoid(runs, OLD),
        _sigmoid(runs, NORMALISED),
        _stalls(runs),
        _trains(runs, "tanh"),
        _trains(runs, "relu"),
    ]


def select_initial(
    runs: Sequence[Run],
    activation: str,
    scheme: Scheme,
) -> list[Run]:
    """The runs that are measured at initialisation, one per seed."""
    settings = {
        "data.name": "noise",
        "activation.kind": activation,
        "init.kind": scheme.init,
    }
    return where(runs, settings)


def select_trained(runs: Sequence[Run], activation: str) -> list[Run]:
    """The runs on digits, of every learning rate."""
    return where(runs, {"data.name": "digits", "activation.kind": activation})


def _factor(
    runs: Sequence[Run],
    scheme: Scheme,
    low: float,
    high: float,
) -> Claim:
    factors = initial_factors(select_initial(runs, "tanh", scheme))
    return claim(
        f"tanh, {scheme.words}: factor of the squared gradient a layer",
        source=f"{SOURCE}, Fig. 7",
        expected=f"within {low} to {high} on every seed",
        values=factors,
        holds=low <= min(factors) and max(factors) <= high,
    )


def _ratio(
    runs: Sequence[Run],
    scheme: Scheme,
    expected: str,
    low: float,
    high: float,
) -> Claim:
    group = select_initial(runs, "tanh", scheme)
    ratios = [run.info["verdict"]["initial"]["ratio"] for run in group]
    return claim(
        f"tanh, {scheme.words}, 10 layers: squared gradient, first layer over last",
        source=f"{SOURCE}, Fig. 7",
        expected=expected,
        values=ratios,
        holds=low <= min(ratios) and max(ratios) <= high,
    )


def _singular(runs: Sequence[Run], scheme: Scheme) -> Claim:
    """The quarter-circle law gives the mean singular value 8σ_w/(3π).

    It holds for a square matrix of independent entries of variance σ_w²/n.
    """
    theory = 8 * math.sqrt(scheme.variance) / (3 * math.pi)
    means = []
    for run in select_initial(runs, "linear", scheme):
        singular_values = run.inspections["jacobian_spectrum"][0]
        means.append(float(singular_values.mean()))
    return claim(
        f"{scheme.words}: mean singular value of a layer's Jacobian "
        "where the nonlinearity has slope 1",
        source=f"{SOURCE}, §4.2.1",
        expected=f"{theory:.3f} ± 0.02 = 8σ_w/(3π) on every seed",
        values=means,
        holds=max(abs(mean - theory) for mean in means) <= 0.02,
    )


def _sigmoid(runs: Sequence[Run], scheme: Scheme) -> Claim:
    """The slope is at most 1/4, and close to it where the units are not saturated."""
    bound = scheme.variance / 16
    factors = initial_factors(select_initial(runs, "sigmoid", scheme))
    values = [factor / bound for factor in factors]
    return claim(
        f"sigmoid, {scheme.words}: factor of the squared gradient a layer "
        f"over its bound σ_w²/16 = {bound:.4f}",
        source=SOURCE,
        expected="within 0.8 to 1.0 on every seed",
        values=values,
        holds=min(values) >= 0.8 and max(values) <= 1,
    )


def _stalls(runs: Sequence[Run]) -> Claim:
    losses = final_values(select_trained(runs, "sigmoid"), "train_loss")
    return claim(
        "sigmoid, 6 hidden layers, 300 steps on digits: training loss, every learning rate",
        source=SOURCE,
        expected="2.303 ± 0.03 = ln 10 on every seed",
        values=losses,
        holds=max(abs(loss - CHANCE) for loss in losses) <= 0.03,
    )


def _trains(runs: Sequence[Run], activation: str) -> Claim:
    best = at_best_rate(select_trained(runs, activation))
    losses = final_values(best, "train_loss")
    return claim_on_every_seed(
        f"{activation}, 6 hidden layers, 300 steps on digits: "
        "training loss at the best of three learning rates",
        source=SOURCE,
        values=losses,
        below=0.05,
    )
