"""Selecting recorded runs by their settings, and the numbers that claims and figures use."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    """A final number of ``run.json``; the worst value if the run diverged or has no finite one.

    The worst loss is infinite, and the worst accuracy is zero.
    """
    worst = 0.0 if name.endswith("accuracy") else math.inf
    value = run.info["final"].get(name)
    if run.info["status"] == "diverged" or value is None:
        return worst
    return value if math.isfinite(value) else worst


def final_values(runs: Sequence[Run], name: str) -> list[float]:
    """``final`` of each run."""
    return [final(run, name) for run in runs]


def final_by_seed(runs: Sequence[Run], name: str) -> dict[int, float]:
    """``final`` of the runs of one setting, by seed."""
    values = {}
    for seed, run in by_seed(runs).items():
        values[seed] = final(run, name)
    return values


def error(run: Run, split: str) -> float:
    """The final error in per cent; 100 if the run diverged.

    ``split`` is ``train``, for the mean over the last epoch, or ``eval``.
    """
    accuracy = final(run, f"{split}_accuracy")
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


def one_per_seed(runs: Sequence[Run]) -> list[Run]:
    """The last run of each seed, for measurements that other settings do not influence."""
    last_runs = {}
    for run in runs:
        last_runs[run["seed"]] = run
    return list(last_runs.values())


def completed(runs: Sequence[Run]) -> list[Run]:
    """The runs that trained to their last step, without those that diverged."""
    return [run for run in runs if run.info["status"] == "done"]


def setting_values(runs: Sequence[Run], path: str) -> list[Any]:
    """The distinct values that ``runs`` have for the setting ``path``, in ascending order."""
    return sorted({run[path] for run in runs})


def initial_factors(runs: Sequence[Run]) -> list[float]:
    """For each run, the fitted factor per layer of the squared gradient before the first step."""
    factors = []
    for run in runs:
        fit = run.info["verdict"]["initial"]
        factors.append(fit["factor_per_layer"])
    return factors


def initial_profiles(runs: Sequence[Run], gauge: str) -> np.ndarray:
    """A gauge of every layer at the first measured step, [runs, layers]."""
    rows = [run.profiles[gauge][0] for run in runs]
    return np.stack(rows)


def initial_inspections(runs: Sequence[Run], name: str) -> np.ndarray:
    """An inspection at the first step at which it was measured, [runs, …]."""
    rows = [run.inspections[name][0] for run in runs]
    return np.stack(rows)


def tabulate_by_seed(
    runs: Sequence[Run],
    path: str,
    values: Sequence[object],
    measure: Callable[[Run], float],
) -> np.ndarray:
    """One number for each run, [seeds, values], with the seeds in ascending order.

    Args:
        runs: one run for each seed and each of ``values``.
        path: the setting that differs between the columns.
        values: the setting's value in each column.
        measure: returns the number of one run.
    """
    columns = []
    for value in values:
        selected = where(runs, {path: value})
        column = by_seed(selected)
        columns.append([measure(column[seed]) for seed in sorted(column)])
    return np.stack(columns, axis=1)


def metric_curves(
    runs: Sequence[Run],
    name: str,
    window: int = 1,
) -> np.ndarray:
    """A metric over training, in means of ``window`` steps, [runs, windows].

    A run that ended early, because it diverged, is NaN after its last window.

    Args:
        runs: the runs; the longest has all windows.
        name: a column of the metrics, such as ``train_loss``.
        window: how many consecutive steps one mean covers; an incomplete last window is dropped.
    """
    curves = []
    for run in runs:
        curves.append(window_means(run.metrics[name], window))
    return stack_padded(curves)


def stack_padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of different lengths as one array [rows, longest], NaN after the end of each."""
    longest = max(map(len, rows), default=0)
    padded = np.full((len(rows), longest), np.nan)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded


def window_means(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of each ``window`` consecutive values [S]; an incomplete last window is dropped."""
    num_windows = len(values) // window
    complete = values[: num_windows * window]
    windows = complete.reshape(num_windows, window)
    return windows.mean(axis=1)


def evaluated_rows(run: Run) -> np.ndarray:
    """The indices [K] of the rows of the metrics in which the evaluation split was measured."""
    is_evaluated = np.isfinite(run.metrics["eval_accuracy"])
    return np.flatnonzero(is_evaluated)


def means_up_to_evaluations(runs: Sequence[Run], name: str) -> np.ndarray:
    """A metric in means over the steps that lead up to each evaluation, [runs, evaluations].

    The first mean starts at the first step; the last one includes steps after the last evaluation.
    """
    ends = evaluated_rows(runs[0])
    starts = np.r_[0, ends[:-1] + 1]
    num_steps = len(runs[0].metrics[name])
    counts = np.diff(starts, append=num_steps)
    means = []
    for run in runs:
        sums = np.add.reduceat(run.metrics[name], starts)
        means.append(sums / counts)
    return np.stack(means)


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
