"""Claims about the explosion under batch norm; their thresholds were set before the runs."""

import math
from collections.abc import Sequence

import numpy as np

from research.records.queries import where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, log_factor
from research.theory import profiles as theory

SKIPPED = 2  # layers left out of the fit: their input is not yet that of a deep network
YANG = "Yang et al. 2019, Theorem 8"

# The network that is trained on digits: the factor per layer of the squared gradient, and how many
# layers lie between the first and the last.
DIGITS_LOG_FACTOR = 2 * math.log(1.2112)
DIGITS_LAYERS = 63


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The factor per layer at every batch size, and the network that is trained on digits."""
    return [
        _factor(runs, "relu", 32),
        _factor(runs, "relu", 128),
        _factor(runs, "relu", 256),
        _factor(runs, "linear", 6),
        _factor(runs, "linear", 8),
        _digits(runs),
    ]


def select_normalised(
    runs: Sequence[Run],
    activation: str,
    batch: int,
) -> list[Run]:
    """The plain networks with batch norm on noise, one per seed."""
    settings = {
        "norm.kind": "batch",
        "skip.kind": "none",
        "data.name": "noise",
        "activation.kind": activation,
        "train.batch_size": batch,
    }
    return where(runs, settings)


def _factor(
    runs: Sequence[Run],
    activation: str,
    batch: int,
) -> Claim:
    """The claim judges the geometric mean over seeds."""
    rate = theory.batch_norm_rate(activation, batch)
    assert rate is not None
    ratios = []
    for run in select_normalised(runs, activation, batch):
        factor = math.exp(log_factor(run, first_layer=SKIPPED))
        ratios.append(factor / rate)
    geometric_mean = math.exp(float(np.mean(np.log(ratios))))
    return claim(
        f"{activation}, B = {batch}: factor of the squared gradient a layer "
        f"over theory's {rate:.4f}, mean over seeds",
        source=YANG,
        expected="1 ± 0.03",
        values=ratios,
        holds=abs(geometric_mean - 1) <= 0.03,
    )


def _digits(runs: Sequence[Run]) -> Claim:
    """This claim is about norms of the weights' gradients, not about their squares."""
    expected = math.exp(DIGITS_LOG_FACTOR / 2 * DIGITS_LAYERS)
    values = []
    for run in where(runs, {"data.name": "digits"}):
        norms = run.profiles["grad_norm"][0]
        values.append(float(norms[0] / norms[-1]))
    return claim(
        "digits, ReLU, 64 layers, B = 128: "
        "norm of the first layer's gradient over that of the last's",
        source="Yang et al. 2019, Fig. 1",
        expected="within a factor 3 of 1.2112^63 = 1.7e5 on every seed",
        values=values,
        holds=expected / 3 <= min(values) and max(values) <= 3 * expected,
    )
