"""Thresholds of the trainable depth, set before the runs."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from research.records.queries import at_best_rate, final_values, setting_values, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim
from research.theory import mean_field

BIAS = 0.05  # σ_b²
SOURCE = "Schoenholz et al. 2017, Fig. 5"
SHALLOW = 3  # depth in units of ξ_c
DEEP = 12
PUBLISHED_SCALES = {  # 6 ξ_c by σ_w²
    0.6: 8.9,
    0.9: 17.3,
    1.2: 35.7,
    1.5: 94.7,
    2.1: 116.0,
    2.5: 70.8,
    3.2: 50.7,
    4.0: 41.9,
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One depth and weight variance: the depth in units of ξ_c, and the accuracies by seed."""

    relative_depth: float
    accuracies: list[float]


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Which networks train, which do not, the order in between, and the depth scale itself."""
    cells = read_cells(runs)
    return [
        _claim_shallow_train(cells),
        _claim_deep_do_not_train(cells),
        _claim_order(cells),
        _claim_scales(),
    ]


def depth_scale(variance: float) -> float:
    """The correlation depth scale ξ_c for one σ_w²."""
    return mean_field.correlation_depth_scale("tanh", variance, BIAS)


def read_cells(runs: Sequence[Run]) -> list[Cell]:
    """The cells of the grid, at the learning rate whose loss ends lower."""
    cells = []
    for depth in setting_values(runs, "model.depth"):
        for sigma in setting_values(runs, "init.sigma_w"):
            group = where(runs, {"model.depth": depth, "init.sigma_w": sigma})
            accuracies = final_values(at_best_rate(group), "train_accuracy")
            cells.append(Cell(depth / depth_scale(sigma**2), accuracies))
    return cells


def _claim_shallow_train(cells: Sequence[Cell]) -> Claim:
    values = []
    for cell in cells:
        if cell.relative_depth <= SHALLOW:
            values += cell.accuracies
    return claim(
        "networks no deeper than 3 ξ_c: training accuracy",
        source=SOURCE,
        expected="≥ 0.8 in every cell on every seed",
        values=values,
        holds=min(values) >= 0.8,
    )


def _claim_deep_do_not_train(cells: Sequence[Cell]) -> Claim:
    values = []
    for cell in cells:
        if cell.relative_depth >= DEEP:
            values += cell.accuracies
    return claim(
        "networks deeper than 12 ξ_c: training accuracy",
        source=SOURCE,
        expected="≤ 0.3 in every cell on every seed",
        values=values,
        holds=max(values) <= 0.3,
    )


def _claim_order(cells: Sequence[Cell]) -> Claim:
    depths = [cell.relative_depth for cell in cells]
    accuracies = [float(np.mean(cell.accuracies)) for cell in cells]
    correlations = np.corrcoef(rankdata(np.negative(depths)), rankdata(accuracies))
    order = float(correlations[0, 1])
    return claim(
        f"rank correlation of accuracy and ξ_c / depth over all {len(cells)} cells",
        source=SOURCE,
        expected="≥ 0.65",
        values=[order],
        holds=order >= 0.65,
    )


def _claim_scales() -> Claim:
    errors = []
    for variance, published in PUBLISHED_SCALES.items():
        errors.append(6 * depth_scale(variance) / published - 1)
    return claim(
        "6 ξ_c of every σ_w² off the edge, over the number computed independently, minus 1",
        source="Schoenholz et al. 2017, eq. 9",
        expected="within ±0.01",
        values=errors,
        holds=max(map(abs, errors)) <= 0.01,
    )
