"""Thresholds of which learning rate is best at which depth, set before the runs."""

import math
from collections.abc import Sequence

import numpy as np

from research.records.queries import setting_values, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

YANG = "Yang et al. 2023"
BORDELON = "Bordelon et al. 2023"
DEY = "Dey et al. 2025"
DEPTHS = (2, 8, 32)
KINDS = {"1": "identity", "1/√L": "inv_sqrt_depth", "1/L": "scaled"}  # by factor of the branch
GUESSING = math.log(10)  # the loss of a network that knows nothing of ten classes
LAST_STEPS = 10  # that a final loss is the mean of


def claims(runs: Sequence[Run]) -> list[Claim]:
    """How far the best rate moves with depth, for three factors of the branches."""
    return [
        _stays(runs, "1/√L", YANG),
        _stays(runs, "1/L", DEY),
        _falls(runs),
        _does_not_train(runs),
        _improves(runs),
    ]


def final_loss(run: Run) -> float:
    """The mean training loss of the last steps; infinite for a run that diverged."""
    if run.info["status"] == "diverged":
        return math.inf
    loss = float(np.mean(run.metrics["train_loss"][-LAST_STEPS:]))
    return loss if math.isfinite(loss) else math.inf


def losses(
    runs: Sequence[Run],
    factor: str,
    depth: int,
) -> np.ndarray:
    """Final losses [seeds, rates] of the networks with a factor and a depth."""
    group = where(runs, {"skip.kind": KINDS[factor], "model.depth": depth})
    rows = []
    for seed in setting_values(runs, "seed"):
        of_seed = where(group, {"seed": seed})
        in_order = sorted(of_seed, key=_learning_rate)
        rows.append([final_loss(run) for run in in_order])
    return np.array(rows)


def _learning_rate(run: Run) -> float:
    return run["optimizer.learning_rate"]


def best_exponents(
    runs: Sequence[Run],
    factor: str,
    depth: int,
) -> np.ndarray:
    """log₂ of the learning rate with the least final loss, by seed."""
    rates = np.log2(setting_values(runs, "optimizer.learning_rate"))
    return rates[np.argmin(losses(runs, factor, depth), axis=1)]


def _stays(
    runs: Sequence[Run],
    factor: str,
    source: str,
) -> Claim:
    best = np.stack([best_exponents(runs, factor, depth) for depth in DEPTHS])
    ranges = np.ptp(best, axis=0).tolist()
    return claim(
        f"branches times {factor}: range over L = 2, 8, 32 of log₂ of the best learning rate",
        source=source,
        expected="≤ 1 on every seed",
        values=ranges,
        holds=max(ranges) <= 1,
    )


def _falls(runs: Sequence[Run]) -> Claim:
    shifts = (best_exponents(runs, "1", 2) - best_exponents(runs, "1", 8)).tolist()
    return claim(
        "branches times 1: log₂ of the best learning rate at L = 2 minus that at L = 8",
        source=YANG,
        expected="≥ 2 on every seed",
        values=shifts,
        holds=min(shifts) >= 2,
    )


def _does_not_train(runs: Sequence[Run]) -> Claim:
    least = losses(runs, "1", 32).min(axis=1)
    shown = np.minimum(least, 100.0).tolist()
    return claim(
        "branches times 1, L = 32: least final loss over all rates",
        source=BORDELON,
        expected=f"≥ {GUESSING:.3f} on every seed, that of guessing",
        values=shown,
        holds=min(shown) >= GUESSING,
    )


def _improves(runs: Sequence[Run]) -> Claim:
    """At the rate that is best for L = 2."""
    values = []
    for factor in ("1/√L", "1/L"):
        chosen = np.argmin(losses(runs, factor, 2), axis=1)
        deep = losses(runs, factor, 32)
        values += np.take_along_axis(deep, chosen[:, None], axis=1)[:, 0].tolist()
    return claim(
        "branches times 1/√L and 1/L, L = 32 at the rate that is best for L = 2: final loss",
        source=f"{YANG}; {DEY}",
        expected="≤ 1 on every seed",
        values=values,
        holds=max(values) <= 1,
    )
