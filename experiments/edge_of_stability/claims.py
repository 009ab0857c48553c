"""Thresholds of the edge of stability, set before the runs."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

COHEN = "Cohen, Kaur, Li, Kolter, Talwalkar 2021"
# step sizes
AT_THE_EDGE = (0.3, 0.4)
BELOW = 0.05


def claims(runs: Sequence[Run]) -> list[Claim]:
    """At the edge, below it, and everywhere."""
    edges = [part for rate in AT_THE_EDGE for part in (_hovers(runs, rate), _rises(runs, rate))]
    return [*edges, *_below(runs), _learns(runs)]


def of_rate(runs: Sequence[Run], rate: float) -> list[Run]:
    """The runs of one step size."""
    return where(runs, {"optimizer.learning_rate": rate})


def share(run: Run) -> np.ndarray:
    """The sharpness over 2/η, at every inspected step."""
    return run.inspections["sharpness"] * run["optimizer.learning_rate"] / 2


def increasing(run: Run) -> float:
    """The fraction of inspected steps with a greater loss than the one before; NaN for a run that diverged."""
    if run.info["status"] == "diverged":
        return np.nan
    loss = run.metrics["train_loss"][run.inspections["step"].astype(int)]
    return float(np.mean(np.diff(loss) > 0))


def _hovers(runs: Sequence[Run], rate: float) -> Claim:
    values = [float(np.mean(share(run)[-len(share(run)) // 5 :])) for run in of_rate(runs, rate)]
    return claim(
        f"η = {rate}: sharpness over 2/η, mean of the last fifth of training",
        source=f"{COHEN}, Fig. 1",
        expected="0.97 to 1.06 on every seed",
        values=values,
        holds=min(values) >= 0.97 and max(values) <= 1.06,
    )


def _rises(runs: Sequence[Run], rate: float) -> Claim:
    values = [increasing(run) for run in of_rate(runs, rate)]
    return claim(
        f"η = {rate}: fraction of the losses, every 50 steps, that are greater than the one before",
        source=f"{COHEN}, Fig. 1",
        expected="≥ 0.1 on every seed",
        values=values,
        holds=min(values) >= 0.1,
    )


def _below(runs: Sequence[Run]) -> list[Claim]:
    slow = of_rate(runs, BELOW)
    greatest = [float(np.max(share(run))) for run in slow]
    rising = [increasing(run) for run in slow]
    return [
        claim(
            f"η = {BELOW}: greatest sharpness over 2/η",
            source=f"{COHEN}, §3.1",
            expected="< 0.5 on every seed",
            values=greatest,
            holds=max(greatest) < 0.5,
        ),
        claim(
            f"η = {BELOW}: fraction of the losses, every 50 steps, that are greater than the one before",
            source=f"{COHEN}, §3.1",
            expected="0: the loss falls all the time",
            values=rising,
            holds=max(rising) == 0,
        ),
    ]


def _learns(runs: Sequence[Run]) -> Claim:
    values = [float(run.metrics["train_loss"][-1] / run.metrics["train_loss"][0]) for run in runs]
    return claim(
        "every η: final over initial training loss",
        source=f"{COHEN}, Fig. 5",
        expected="< 1 on every seed",
        values=values,
        holds=max(values) < 1,
    )
