"""Claims about the edge of stability; their thresholds were set before the runs."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed

COHEN = "Cohen, Kaur, Li, Kolter, Talwalkar 2021"
STEP_BELOW = 0.05  # the step size η whose edge 2/η is out of reach


def claims(runs: Sequence[Run]) -> list[Claim]:
    """At two step sizes that reach the edge, at one that does not, and at all of them."""
    return [
        _hovers(runs, 0.3),
        _rises(runs, 0.3),
        _hovers(runs, 0.4),
        _rises(runs, 0.4),
        _stays_below(runs),
        _falls_at_all_times(runs),
        _learns(runs),
    ]


def select_step_size(runs: Sequence[Run], step_size: float) -> list[Run]:
    """The runs with one step size of gradient descent."""
    return where(runs, {"optimizer.learning_rate": step_size})


def sharpness_over_edge(run: Run) -> np.ndarray:
    """The sharpness over 2/η, at every inspected step."""
    return run.inspections["sharpness"] * run["optimizer.learning_rate"] / 2


def rising_fraction(run: Run) -> float:
    """The fraction of inspected steps with a greater loss than the previous inspected step.

    NaN for a run that diverged.
    """
    if run.info["status"] == "diverged":
        return np.nan
    inspected = run.inspections["step"].astype(int)
    losses = run.metrics["train_loss"][inspected]
    return float(np.mean(np.diff(losses) > 0))


def _hovers(runs: Sequence[Run], step_size: float) -> Claim:
    means = []
    for run in select_step_size(runs, step_size):
        shares = sharpness_over_edge(run)
        last_fifth = shares[-len(shares) // 5 :]
        means.append(float(np.mean(last_fifth)))
    return claim(
        f"η = {step_size}: sharpness over 2/η, mean of the last fifth of training",
        source=f"{COHEN}, Fig. 1",
        expected="0.97 to 1.06 on every seed",
        values=means,
        holds=min(means) >= 0.97 and max(means) <= 1.06,
    )


def _rises(runs: Sequence[Run], step_size: float) -> Claim:
    fractions = [rising_fraction(run) for run in select_step_size(runs, step_size)]
    return claim_on_every_seed(
        f"η = {step_size}: fraction of the losses, every 50 steps, "
        "that are greater than the one before",
        source=f"{COHEN}, Fig. 1",
        values=fractions,
        at_least=0.1,
    )


def _stays_below(runs: Sequence[Run]) -> Claim:
    group = select_step_size(runs, STEP_BELOW)
    greatest = [float(np.max(sharpness_over_edge(run))) for run in group]
    return claim_on_every_seed(
        f"η = {STEP_BELOW}: greatest sharpness over 2/η",
        source=f"{COHEN}, §3.1",
        values=greatest,
        below=0.5,
    )


def _falls_at_all_times(runs: Sequence[Run]) -> Claim:
    fractions = [rising_fraction(run) for run in select_step_size(runs, STEP_BELOW)]
    return claim(
        f"η = {STEP_BELOW}: fraction of the losses, every 50 steps, "
        "that are greater than the one before",
        source=f"{COHEN}, §3.1",
        expected="0: the loss falls all the time",
        values=fractions,
        holds=max(fractions) == 0,
    )


def _learns(runs: Sequence[Run]) -> Claim:
    ratios = []
    for run in runs:
        losses = run.metrics["train_loss"]
        ratios.append(float(losses[-1] / losses[0]))
    return claim_on_every_seed(
        "every η: final over initial training loss",
        source=f"{COHEN}, Fig. 5",
        values=ratios,
        below=1,
    )
