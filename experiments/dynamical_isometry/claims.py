"""Thresholds of dynamical isometry, set before the runs."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import at_best_rate, final, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

SAXE = "Saxe, McClelland, Ganguli 2014"
PENNINGTON = "Pennington, Schoenholz, Ganguli 2017"


def claims(runs: Sequence[Run]) -> list[Claim]:
    """What the Jacobian's spectrum is, and what it is worth in training."""
    variances = [_variance(runs, depth) for depth in (1, 2, 5, 10)]
    greatest = [_greatest(runs, depth) for depth in (1, 2, 5)]
    return [_orthogonal(runs), *variances, *greatest, *_training(runs)]


def squares(run: Run) -> np.ndarray:
    """The squared singular values of ∂h_N/∂h_0 at initialisation."""
    return run.inspections["jacobian_spectrum"][0] ** 2


def linear(runs: Sequence[Run], init: str, depth: int) -> list[Run]:
    """Linear networks of one depth."""
    return where(runs, {"activation.kind": "linear", "init.kind": init, "model.depth": depth})


def trained(runs: Sequence[Run], init: str) -> list[Run]:
    """The tanh networks of depth 200, at the learning rate with the lowest mean loss."""
    group = where(runs, {"model.depth": 200, "init.kind": init})
    return at_best_rate(group)


def _orthogonal(runs: Sequence[Run]) -> Claim:
    spreads = [float(np.ptp(squares(run))) for run in linear(runs, "orthogonal", 10)]
    return claim(
        "linear, 10 orthogonal layers of 200: greatest minus least squared singular value",
        source=SAXE,
        expected="≤ 1e-10 in float64",
        values=spreads,
        holds=max(spreads) <= 1e-10,
    )


def _variance(runs: Sequence[Run], depth: int) -> Claim:
    values = [float(np.var(squares(run))) / depth for run in linear(runs, "lecun", depth)]
    return claim(
        f"linear, {depth} Gaussian layers of 200: variance of squared singular values over depth, mean over seeds",
        source=PENNINGTON,
        expected="0.8 to 1.2 (1 for infinite width)",
        values=values,
        holds=0.8 <= float(np.mean(values)) <= 1.2,
    )


def _greatest(runs: Sequence[Run], depth: int) -> Claim:
    theory = (depth + 1) ** (depth + 1) / depth**depth
    values = [float(squares(run)[0]) / theory for run in linear(runs, "lecun", depth)]
    return claim(
        f"linear, {depth} Gaussian layers of 200: greatest squared singular value over (L+1)^(L+1)/L^L, mean",
        source=PENNINGTON,
        expected="1 ± 0.15",
        values=values,
        holds=abs(float(np.mean(values)) - 1) <= 0.15,
    )


def _training(runs: Sequence[Run]) -> list[Claim]:
    orthogonal, gaussian = (
        [final(run, "train_accuracy") for run in trained(runs, i)] for i in ("orthogonal", "lecun")
    )
    return [
        claim(
            "tanh, depth 200, orthogonal, best learning rate: training accuracy after 150 steps",
            source=PENNINGTON,
            expected="≥ 0.9 on every seed",
            values=orthogonal,
            holds=min(orthogonal) >= 0.9,
        ),
        claim(
            "the same with Gaussian weights of the same variance",
            source=PENNINGTON,
            expected="≤ 0.6 on every seed",
            values=gaussian,
            holds=max(gaussian) <= 0.6,
        ),
    ]
