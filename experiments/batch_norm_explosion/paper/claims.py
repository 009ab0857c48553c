"""Thresholds of the trainable depth under batch norm on MNIST, set before any run."""

import math
from collections.abc import Sequence

import numpy as np

from research.records.queries import at_best_rate, final, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim
from research.theory import profiles as theory

BATCHES = (32, 128)
TRAINED = 0.5  # training accuracy of the last epoch
SCALES = 16  # depth scales to which the paper sees networks train


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Where training ends, at every batch size."""
    return [_boundary(runs, batch) for batch in BATCHES]


def predicted(batch: int) -> float:
    """16 ξ = 16/ln of the factor a layer."""
    rate = theory.batch_norm_rate("relu", batch)
    assert rate is not None
    return SCALES / math.log(rate)


def accuracies(runs: Sequence[Run], batch: int) -> tuple[list[int], list[float]]:
    """The depths, and the mean training accuracy of each at its best learning rate."""
    group = where(runs, {"train.batch_size": batch})
    depths = sorted({run["model.depth"] for run in group})
    cells = [at_best_rate(where(group, {"model.depth": depth})) for depth in depths]
    return depths, [float(np.mean([_accuracy(run) for run in cell])) for cell in cells]


def _accuracy(run: Run) -> float:
    value = final(run, "train_accuracy")
    return value if math.isfinite(value) else 0.1


def boundary(depths: Sequence[int], means: Sequence[float]) -> float:
    """The depth where the accuracy first falls through one half, on a line between two; the last one if it does not."""
    below = np.flatnonzero(np.asarray(means) < TRAINED)
    if not len(below) or below[0] == 0:
        return float(depths[below[0]] if len(below) else depths[-1])
    last = below[0] - 1
    first = below[0]
    share = (means[last] - TRAINED) / (means[last] - means[first])
    return depths[last] + share * (depths[first] - depths[last])


def _boundary(runs: Sequence[Run], batch: int) -> Claim:
    ratio = boundary(*accuracies(runs, batch)) / predicted(batch)
    return claim(
        f"B = {batch}: depth at which the training accuracy falls through one half, over 16 ξ = {predicted(batch):.1f}",
        source="Yang et al. 2019, Fig. 2",
        expected="within a factor 1.5 of 1",
        values=[ratio],
        holds=1 / 1.5 <= ratio <= 1.5,
    )
