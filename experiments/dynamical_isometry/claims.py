"""Claims about dynamical isometry; their thresholds were set before the runs."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import at_best_rate, final_values, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed

SAXE = "Saxe, McClelland, Ganguli 2014"
PENNINGTON = "Pennington, Schoenholz, Ganguli 2017"


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The spectrum of the Jacobian at initialisation, and its effect on training."""
    variances = [_variance(runs, depth) for depth in (1, 2, 5, 10)]
    greatest = [_greatest(runs, depth) for depth in (1, 2, 5)]
    return [
        _orthogonal(runs),
        *variances,
        *greatest,
        _orthogonal_trains(runs),
        _gaussian_does_not_train(runs),
    ]


def squared_singular_values(run: Run) -> np.ndarray:
    """Of the Jacobian ∂h_N/∂h_0 at initialisation, in descending order."""
    return run.inspections["jacobian_spectrum"][0] ** 2


def select_linear(
    runs: Sequence[Run],
    init: str,
    depth: int,
) -> list[Run]:
    """The linear networks with one initialisation and depth."""
    return where(runs, {"activation.kind": "linear", "init.kind": init, "model.depth": depth})


def train_accuracies(runs: Sequence[Run], init: str) -> list[float]:
    """Of the tanh networks of depth 200, at the learning rate with the lowest mean loss."""
    group = where(runs, {"model.depth": 200, "init.kind": init})
    return final_values(at_best_rate(group), "train_accuracy")


def _orthogonal(runs: Sequence[Run]) -> Claim:
    group = select_linear(runs, "orthogonal", 10)
    spreads = [float(np.ptp(squared_singular_values(run))) for run in group]
    return claim(
        "linear, 10 orthogonal layers of 200: greatest minus least squared singular value",
        source=SAXE,
        expected="≤ 1e-10 in float64",
        values=spreads,
        holds=max(spreads) <= 1e-10,
    )


def _variance(runs: Sequence[Run], depth: int) -> Claim:
    values = []
    for run in select_linear(runs, "lecun", depth):
        variance = float(np.var(squared_singular_values(run)))
        values.append(variance / depth)
    return claim(
        f"linear, {depth} Gaussian layers of 200: "
        "variance of squared singular values over depth, mean over seeds",
        source=PENNINGTON,
        expected="0.8 to 1.2 (1 for infinite width)",
        values=values,
        holds=0.8 <= float(np.mean(values)) <= 1.2,
    )


def _greatest(runs: Sequence[Run], depth: int) -> Claim:
    theory = (depth + 1) ** (depth + 1) / depth**depth
    values = []
    for run in select_linear(runs, "lecun", depth):
        greatest = float(squared_singular_values(run)[0])
        values.append(greatest / theory)
    return claim(
        f"linear, {depth} Gaussian layers of 200: "
        "greatest squared singular value over (L+1)^(L+1)/L^L, mean",
        source=PENNINGTON,
        expected="1 ± 0.15",
        values=values,
        holds=abs(float(np.mean(values)) - 1) <= 0.15,
    )


def _orthogonal_trains(runs: Sequence[Run]) -> Claim:
    accuracies = train_accuracies(runs, "orthogonal")
    return claim_on_every_seed(
        "tanh, depth 200, orthogonal, best learning rate: training accuracy after 150 steps",
        source=PENNINGTON,
        values=accuracies,
        at_least=0.9,
    )


def _gaussian_does_not_train(runs: Sequence[Run]) -> Claim:
    accuracies = train_accuracies(runs, "lecun")
    return claim_on_every_seed(
        "the same with Gaussian weights of the same variance",
        source=PENNINGTON,
        values=accuracies,
        at_most=0.6,
    )
