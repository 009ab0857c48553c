"""Selecting recorded runs by their settings, and the numbers that claims and figures use."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from research.records.runs import Run


def where(runs: Sequence[Run], settings: Mapping[str, object]) -> list[Run]:
    """The runs whose configuration has these values, by dotted path.

    Raises:
        ValueError: no run has them, so that no claim is made about an empty set of runs.
    """
    selected = [run for run in runs if _has_settings(run, settings)]
    if not selected:
        words = [f"{path}={value}" for path, value in settings.items()]
        raise ValueError(f"no run has {', '.join(words)}")
    return selected


def _has_settings(run: Run, settings: Mapping[str, object]) -> bool:
    return all(run[path] == value for path, value in settings.items())


def final(run: Run, name: str) -> float:
    """A final number of ``run.json``; infinite if the run diverged or recorded no finite value."""
    value = run.info["final"].get(name)
    if run.info["status"] == "diverged" or value is None:
        return math.inf
    return value if math.isfinite(value) else math.inf


def error(run: Run, split: str) -> float:
    """The final error in per cent; 100 if the run diverged.

    ``split`` is ``train``, for the mean over the last epoch, or ``eval``.
    """
    accuracy = final(run, f"{split}_accuracy")
    if math.isinf(accuracy):
        return 100.0
    return 100 * (1 - accuracy)


def at_best_rate(runs: Sequence[Run]) -> list[Run]:
    """The runs with the best learning rate.

    It is the one whose runs have the lowest mean of their final training losses.
    """
    path = "optimizer.learning_rate"
    rates = {run[path] for run in runs}
    candidates = []
    for rate in sorted(rates):
        candidates.append(where(runs, {path: rate}))
    return min(candidates, key=_mean_train_loss)


def _mean_train_loss(runs: Sequence[Run]) -> float:
    losses = [final(run, "train_loss") for run in runs]
    return sum(losses) / len(losses)


def by_seed(runs: Sequence[Run]) -> dict[int, Run]:
    """The runs of one setting by seed.

    Raises:
        ValueError: two runs have the same seed, so they also differ in another setting.
    """
    runs_by_seed = {run["seed"]: run for run in runs}
    if len(runs_by_seed) != len(runs):
        raise ValueError(
            f"expected runs that differ only in their seed, "
            f"got {len(runs)} runs with {len(runs_by_seed)} seeds"
        )
    return runs_by_seed


def autocorrelation(values: np.ndarray, lags: int) -> np.ndarray:
    """The autocorrelation of a series at lags 0 to ``lags``: [lags + 1], 1 at lag 0.

    Σ (v_i − v̄)(v_{i+k} − v̄)/Σ (v_i − v̄)², with the first sum over the pairs within the series.

    References:
        Box, Jenkins, Time Series Analysis, 1970, §2.1.
    """
    deviations = np.asarray(values, float) - np.mean(values)
    num_values = len(deviations)
    sums = []
    for lag in range(lags + 1):
        earlier = deviations[: num_values - lag]
        later = deviations[lag:]
        sums.append(np.sum(earlier * later))
    sum_of_squares = np.sum(deviations**2)
    return np.array(sums) / sum_of_squares
