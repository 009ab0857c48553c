"""Claims about the trainable depth under batch norm on MNIST; thresholds set before any run."""

import math
from collections.abc import Sequence

import numpy as np

from research.records.queries import at_best_rate, final, setting_values, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim
from research.theory import profiles as theory

BATCHES = (32, 128)
TRAINED = 0.5  # training accuracy of the last epoch
CHANCE = 0.1  # the accuracy that stands for a run that diverged
SCALES = 16  # depth scales to which the paper sees networks train


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The depth up to which networks train, at every batch size."""
    return [_boundary(runs, batch) for batch in BATCHES]


def predict_boundary(batch: int) -> float:
    """16 ξ, where 1/ξ is ln of the factor per layer."""
    rate = theory.batch_norm_rate("relu", batch)
    assert rate is not None
    return SCALES / math.log(rate)


def measure_boundary(depths: Sequence[int], accuracies: Sequence[float]) -> float:
    """The depth where the accuracy first falls through one half, interpolated linearly.

    The greatest depth if the accuracy never falls so low; the least if it is always lower.
    """
    below = np.flatnonzero(np.asarray(accuracies) < TRAINED)
    if not len(below):
        return float(depths[-1])
    first = below[0]
    if first == 0:
        return float(depths[0])
    last = first - 1
    share = (accuracies[last] - TRAINED) / (accuracies[last] - accuracies[first])
    return depths[last] + share * (depths[first] - depths[last])


def _mean_accuracy(runs: Sequence[Run]) -> float:
    """The mean over seeds of the training accuracy at the best learning rate."""
    accuracies = []
    for run in at_best_rate(runs):
        accuracy = final(run, "train_accuracy")
        accuracies.append(accuracy if math.isfinite(accuracy) else CHANCE)
    return float(np.mean(accuracies))


def _boundary(runs: Sequence[Run], batch: int) -> Claim:
    group = where(runs, {"train.batch_size": batch})
    depths = setting_values(group, "model.depth")
    accuracies = [_mean_accuracy(where(group, {"model.depth": depth})) for depth in depths]
    predicted = predict_boundary(batch)
    ratio = measure_boundary(depths, accuracies) / predicted
    return claim(
        f"B = {batch}: depth at which the training accuracy falls through one half, "
        f"over 16 ξ = {predicted:.1f}",
        source="Yang et al. 2019, Fig. 2",
        expected="within a factor 1.5 of 1",
        values=[ratio],
        holds=1 / 1.5 <= ratio <= 1.5,
    )
