"""Thresholds of which learning rate is best at which depth, set before the runs."""

import math
from collections.abc import Sequence

import numpy as np

from research.records.queries import by_seed, setting_values, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed

YANG = "Yang et al. 2023"
BORDELON = "Bordelon et al. 2023"
DEY = "Dey et al. 2025"
SHALLOW = 2
DEEP = 32
DEPTHS = (SHALLOW, 8, DEEP)
KINDS = {"1": "identity", "1/√L": "inv_sqrt_depth", "1/L": "scaled"}  # by factor of the branch
GUESSING = math.log(10)  # the loss of a network that knows nothing of ten classes
LAST_STEPS = 10  # that a final loss is the mean of
STILL = 0.75  # octaves by which a best rate that stays may move


def claims(runs: Sequence[Run]) -> list[Claim]:
    """How far the best rate moves with depth: three factors of the branches, two optimizers."""
    return [
        _stays(runs, "1/√L", YANG),
        _stays(runs, "1/L", DEY),
        _falls(runs),
        _does_not_train(runs),
        _transfers(runs),
        _falls_under_adam(runs, 1),
        _stays_under_adam(runs, 1, "depth_mup", YANG),
        _stays_under_adam(runs, 1, "complete_p", DEY),
        _falls_under_adam(runs, 2),
        _stays_under_adam(runs, 2, "complete_p", DEY),
        _stays_under_adam(runs, 2, "depth_mup", YANG),
        _moves_for_two_matrices(runs),
    ]


def of_descent(
    runs: Sequence[Run],
    factor: str,
    depth: int,
) -> list[Run]:
    """The networks with a factor and a depth that gradient descent with momentum trains."""
    settings = {"skip.kind": KINDS[factor], "model.depth": depth, "optimizer.kind": "momentum"}
    return where(runs, settings)


def of_adam(
    runs: Sequence[Run],
    weights: int,
    parametrization: str,
    depth: int,
) -> list[Run]:
    """The networks that Adam trains; at the base depth all parametrizations are the same.

    Args:
        runs: all runs.
        weights: the weight matrices of a branch.
        parametrization: its name.
        depth: L.
    """
    name = "standard" if depth == SHALLOW else parametrization
    settings = {
        "optimizer.kind": "adam",
        "model.branch_weights": weights,
        "model.parametrization": name,
        "model.depth": depth,
    }
    return where(runs, settings)


def final_loss(run: Run) -> float:
    """The mean training loss of the last steps; infinite for a run that diverged."""
    if run.info["status"] == "diverged":
        return math.inf
    loss = float(np.mean(run.metrics["train_loss"][-LAST_STEPS:]))
    return loss if math.isfinite(loss) else math.inf


def rates(runs: Sequence[Run]) -> list[float]:
    """The learning rates of some runs, in ascending order."""
    return setting_values(runs, "optimizer.learning_rate")


def losses(runs: Sequence[Run]) -> np.ndarray:
    """Final losses [seeds, rates] of the runs with one network."""
    columns = []
    for rate in rates(runs):
        of_rate = by_seed(where(runs, {"optimizer.learning_rate": rate}))
        columns.append([final_loss(of_rate[seed]) for seed in sorted(of_rate)])
    return np.array(columns).T


def best_exponents(runs: Sequence[Run]) -> np.ndarray:
    """log₂ of the learning rate with the least final loss, by seed."""
    return np.log2(rates(runs))[np.argmin(losses(runs), axis=1)]


def refined_exponents(runs: Sequence[Run]) -> np.ndarray:
    """The same between the rates: the lowest point of the parabola of ln loss through the three.

    Where the best rate is the first or the last one, it is that rate.
    """
    refined = best_exponents(runs)
    logs = np.log(losses(runs))
    for seed, row in enumerate(logs):
        best = int(np.argmin(row))
        if 0 < best < len(row) - 1 and np.isfinite(row[best - 1] + row[best + 1]):
            slope = (row[best - 1] - row[best + 1]) / 2
            curvature = row[best - 1] - 2 * row[best] + row[best + 1]
            refined[seed] += slope / curvature
    return refined


def _stays(
    runs: Sequence[Run],
    factor: str,
    source: str,
) -> Claim:
    best = np.stack([best_exponents(of_descent(runs, factor, depth)) for depth in DEPTHS])
    return claim_on_every_seed(
        f"momentum, branches times {factor}: range over L = 2, 8, 32 of log₂ of the best rate",
        source=source,
        values=np.ptp(best, axis=0).tolist(),
        at_most=1,
    )


def _falls(runs: Sequence[Run]) -> Claim:
    shallow = best_exponents(of_descent(runs, "1", SHALLOW))
    deeper = best_exponents(of_descent(runs, "1", 8))
    return claim_on_every_seed(
        "momentum, branches times 1: log₂ of the best rate at L = 2 minus that at L = 8",
        source=YANG,
        values=(shallow - deeper).tolist(),
        at_least=2,
    )


def _does_not_train(runs: Sequence[Run]) -> Claim:
    least = losses(of_descent(runs, "1", DEEP)).min(axis=1)
    values = np.minimum(least, 100.0).tolist()
    return claim(
        "momentum, branches times 1, L = 32: least final loss over all rates (at most 100)",
        source=BORDELON,
        expected=f"≥ {GUESSING:.3f} on every seed, that of guessing",
        values=values,
        holds=min(values) >= GUESSING,
    )


def _transfers(runs: Sequence[Run]) -> Claim:
    """The deep network at the rate that is best for the shallow one of the same seed."""
    values = []
    for factor in ("1/√L", "1/L"):
        chosen = np.argmin(losses(of_descent(runs, factor, SHALLOW)), axis=1)
        deep = losses(of_descent(runs, factor, DEEP))
        values += np.take_along_axis(deep, chosen[:, None], axis=1)[:, 0].tolist()
    return claim_on_every_seed(
        "momentum, 1/√L and 1/L, L = 32 at the rate that is best for L = 2: final loss",
        source=f"{YANG}; {DEY}",
        values=values,
        at_most=1,
    )


def shifts(
    runs: Sequence[Run],
    weights: int,
    parametrization: str,
) -> list[float]:
    """By how many octaves the best rate of Adam rises from L = 2 to L = 32, by seed.

    Args:
        runs: all runs.
        weights: the weight matrices of a branch.
        parametrization: its name.
    """
    shallow = refined_exponents(of_adam(runs, weights, parametrization, SHALLOW))
    deep = refined_exponents(of_adam(runs, weights, parametrization, DEEP))
    return (deep - shallow).tolist()


def _statement(weights: int, parametrization: str) -> str:
    matrices = "one matrix" if weights == 1 else "two matrices"
    return f"Adam, {matrices} in a branch, {parametrization}: rise of log₂ of the best rate"


def _falls_under_adam(runs: Sequence[Run], weights: int) -> Claim:
    return claim_on_every_seed(
        _statement(weights, "standard"),
        source=DEY,
        values=shifts(runs, weights, "standard"),
        at_most=-1.5,
    )


def _stays_under_adam(
    runs: Sequence[Run],
    weights: int,
    parametrization: str,
    source: str,
) -> Claim:
    values = shifts(runs, weights, parametrization)
    return claim(
        _statement(weights, parametrization),
        source=source,
        expected=f"within ±{STILL:g} on every seed",
        values=values,
        holds=max(map(abs, values)) <= STILL,
    )


def _moves_for_two_matrices(runs: Sequence[Run]) -> Claim:
    """What Dey et al. found for transformers: with two matrices only 1/L keeps the best rate."""
    values = [abs(shift) for shift in shifts(runs, 2, "depth_mup")]
    return claim_on_every_seed(
        "Adam, two matrices in a branch, depth_mup: by how much log₂ of the best rate moves",
        source=DEY,
        values=values,
        at_least=1,
    )
