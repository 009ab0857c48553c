"""Thresholds of the explosion under batch norm, set before the runs."""

import math
from collections.abc import Sequence

import numpy as np

from research.diagnosis.verdict import log_profile
from research.records.queries import where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim
from research.theory import profiles as theory

SKIPPED = 2  # layers: their input is not yet that of a deep network
DIGITS = (
    2 * math.log(1.2112),
    63,
)  # ln factor a layer of the squared gradient, and the layers between first and last
YANG = "Yang et al. 2019, Theorem 8"


def normalised(runs: Sequence[Run], activation: str, batch: int) -> list[Run]:
    """The plain networks with batch norm on noise, one a seed."""
    kinds = {"norm.kind": "batch", "skip.kind": "none", "data.name": "noise"}
    return where(runs, {**kinds, "activation.kind": activation, "train.batch_size": batch})


def factor(run: Run) -> float:
    """Measured factor of the squared gradient a layer, towards the input, of the layers behind the first two."""
    logs = log_profile(run.profiles["signal_grad"][0])[SKIPPED:]
    return math.exp(-float(np.polyfit(np.arange(len(logs)), logs, 1)[0]))


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The factor a layer at every batch size, and the network that is trained on digits."""
    cases = [("relu", 32), ("relu", 128), ("relu", 256), ("linear", 6), ("linear", 8)]
    return [*(_factor(runs, activation, batch) for activation, batch in cases), _digits(runs)]


def _factor(runs: Sequence[Run], activation: str, batch: int) -> Claim:
    """The mean over seeds of its logarithm."""
    rate = theory.batch_norm_rate(activation, batch)
    assert rate is not None
    ratios = [factor(run) / rate for run in normalised(runs, activation, batch)]
    return claim(
        f"{activation}, B = {batch}: factor of the squared gradient a layer over theory's {rate:.4f}, mean over seeds",
        source=YANG,
        expected="1 ± 0.03",
        values=ratios,
        holds=abs(math.exp(float(np.mean(np.log(ratios)))) - 1) <= 0.03,
    )


def _digits(runs: Sequence[Run]) -> Claim:
    """Of the weights' gradients, norms, not squares."""
    rate, layers = DIGITS
    expected = math.exp(rate / 2 * layers)
    ratios = [run.profiles["grad_norm"][0] for run in where(runs, {"data.name": "digits"})]
    values = [float(norms[0] / norms[-1]) for norms in ratios]
    return claim(
        "digits, ReLU, 64 layers, B = 128: norm of the first layer's gradient over that of the last's",
        source="Yang et al. 2019, Fig. 1",
        expected="within a factor 3 of 1.2112^63 = 1.7e5 on every seed",
        values=values,
        holds=all(expected / 3 <= value <= 3 * expected for value in values),
    )
