"""Thresholds of the trainable depth, set before the runs."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import at_best_rate, final, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim
from research.theory import mean_field

BIAS = 0.05  # σ_b²
SOURCE = "Schoenholz et al. 2017, Fig. 5"
SCALES = {
    0.6: 8.9,
    0.9: 17.3,
    1.2: 35.7,
    1.5: 94.7,
    2.1: 116.0,
    2.5: 70.8,
    3.2: 50.7,
    4.0: 41.9,
}  # 6 ξ_c by σ_w²


def claims(runs: Sequence[Run]) -> list[Claim]:
    """What trains, what does not, the order between, and the depth scale itself."""
    cells = [
        (depth / _scale(sigma**2), _accuracies(runs, depth, sigma)) for depth, sigma in _grid(runs)
    ]
    shallow = [value for relative, cell in cells if relative <= 3 for value in cell]
    deep = [value for relative, cell in cells if relative >= 12 for value in cell]
    order = _spearman(
        [-relative for relative, _ in cells], [float(np.mean(cell)) for _, cell in cells]
    )
    return [
        claim(
            "networks no deeper than 3 ξ_c: training accuracy",
            source=SOURCE,
            expected="≥ 0.8 in every cell on every seed",
            values=shallow,
            holds=min(shallow) >= 0.8,
        ),
        claim(
            "networks deeper than 12 ξ_c: training accuracy",
            source=SOURCE,
            expected="≤ 0.3 in every cell on every seed",
            values=deep,
            holds=max(deep) <= 0.3,
        ),
        claim(
            f"rank correlation of accuracy and ξ_c / depth over all {len(cells)} cells",
            source=SOURCE,
            expected="≥ 0.65",
            values=[order],
            holds=order >= 0.65,
        ),
        _scales(),
    ]


def _grid(runs: Sequence[Run]) -> list[tuple[int, float]]:
    return sorted({(run["model.depth"], run["init.sigma_w"]) for run in runs})


def _scale(variance: float) -> float:
    return mean_field.correlation_depth_scale("tanh", variance, BIAS)


def _accuracies(runs: Sequence[Run], depth: int, sigma: float) -> list[float]:
    """By seed, where the loss ends lower."""
    cell = where(runs, {"model.depth": depth, "init.sigma_w": sigma})
    best = at_best_rate(cell)
    return [final(run, "train_accuracy") for run in best]


def _spearman(x: Sequence[float], y: Sequence[float]) -> float:
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def _scales() -> Claim:
    errors = [6 * _scale(variance) / published - 1 for variance, published in SCALES.items()]
    return claim(
        "6 ξ_c of every σ_w² off the edge, over the number computed independently, minus 1",
        source="Schoenholz et al. 2017, eq. 9",
        expected="within ±0.01",
        values=errors,
        holds=max(map(abs, errors)) <= 0.01,
    )
