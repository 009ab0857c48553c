"""Recorded runs picked by what was set, and numbers taken from them: what claims and figures are made of."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from research.records.runs import Run


def where(runs: Sequence[Run], settings: Mapping[str, object]) -> list[Run]:
    """The runs whose configuration has these values, by dotted path.

    Raises:
        ValueError: there is none, so that nothing is ever said of no runs at all.
    """
    chosen = [run for run in runs if all(run[path] == value for path, value in settings.items())]
    if not chosen:
        raise ValueError(
            f"no run has {', '.join(f'{path}={value}' for path, value in settings.items())}"
        )
    return chosen


def final(run: Run, name: str) -> float:
    """A final number of ``run.json``, infinite where a run diverged before there was one."""
    value = run.info["final"].get(name)
    return (
        math.inf
        if value is None or not math.isfinite(value) or run.info["status"] == "diverged"
        else value
    )


def error(run: Run, split: str) -> float:
    """The final error in per cent on ``train`` (mean over the last epoch) or ``eval``; 100 for a run that diverged."""
    accuracy = final(run, f"{split}_accuracy")
    return 100 * (1 - accuracy) if math.isfinite(accuracy) else 100.0


def at_best_rate(runs: Sequence[Run]) -> list[Run]:
    """Of the learning rates that were tried, the runs at that whose mean training loss ends lowest."""
    rate = "optimizer.learning_rate"
    grids = [where(runs, {rate: value}) for value in sorted({run[rate] for run in runs})]
    return min(grids, key=lambda grid: sum(final(run, "train_loss") for run in grid) / len(grid))


def by_seed(runs: Sequence[Run]) -> dict[int, Run]:
    """The runs of one setting by seed.

    Raises:
        ValueError: two have the same seed: something else differs too.
    """
    found = {run["seed"]: run for run in runs}
    if len(found) != len(runs):
        raise ValueError(f"{len(runs)} runs have {len(found)} seeds: they differ in more")
    return found


def autocorrelation(values: np.ndarray, lags: int) -> np.ndarray:
    """The correlation of a series with itself, 0 to ``lags`` places on: [lags + 1]; 1 at 0.

    Σ (v_i − v̄)(v_{i+k} − v̄)/Σ (v_i − v̄)², over the pairs that there are (Box & Jenkins 1970, §2.1).
    """
    apart = np.asarray(values, float) - np.mean(values)
    return np.array(
        [np.sum(apart[: len(apart) - k] * apart[k:]) for k in range(lags + 1)]
    ) / np.sum(apart**2)
