"""Recorded runs picked by what was set, and numbers taken from them: what claims and figures are made of."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    return np.stack([run.profiles[gauge][0] for run in runs])


def initial_inspections(runs: Sequence[Run], name: str) -> np.ndarray:
    """An inspection at the first step at which it was measured, [runs, …]."""
    return np.stack([run.inspections[name][0] for run in runs])


def tabulate_by_seed(
    runs: Sequence[Run], path: str, values: Sequence[object], measure: Callable[[Run], float]
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
        column = by_seed(where(runs, {path: value}))
        columns.append([measure(column[seed]) for seed in sorted(column)])
    return np.stack(columns, axis=1)


def metric_curves(runs: Sequence[Run], name: str, window: int = 1) -> np.ndarray:
    """A metric over training, in means of ``window`` steps, [runs, windows].

    Args:
        runs: runs that recorded the same number of steps.
        name: a column of the metrics, such as ``train_loss``.
        window: how many consecutive steps one mean covers; an incomplete last window is dropped.
    """
    curves = []
    for run in runs:
        curves.append(window_means(run.metrics[name], window))
    return np.stack(curves)


def window_means(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of each ``window`` consecutive values; an incomplete last window is dropped."""
    complete = len(values) // window * window
    return values[:complete].reshape(-1, window).mean(axis=1)


def evaluated_rows(run: Run) -> np.ndarray:
    """The rows of the metrics in which the evaluation split was measured."""
    return np.flatnonzero(np.isfinite(run.metrics["eval_accuracy"]))


def means_up_to_evaluations(runs: Sequence[Run], name: str) -> np.ndarray:
    """A metric in means over the steps that lead up to each evaluation, [runs, evaluations].

    The first mean starts at the first step; the last one includes steps after the last evaluation.
    """
    ends = evaluated_rows(runs[0])
    starts = np.r_[0, ends[:-1] + 1]
    counts = np.diff(np.r_[starts, len(runs[0].metrics[name])])
    means = []
    for run in runs:
        means.append(np.add.reduceat(run.metrics[name], starts) / counts)
    return np.stack(means)


def autocorrelation(values: np.ndarray, lags: int) -> np.ndarray:
    """The correlation of a series with itself, 0 to ``lags`` places on: [lags + 1]; 1 at 0.

    Σ (v_i − v̄)(v_{i+k} − v̄)/Σ (v_i − v̄)², over the pairs that there are (Box & Jenkins 1970, §2.1).
    """
    apart = np.asarray(values, float) - np.mean(values)
    return np.array(
        [np.sum(apart[: len(apart) - k] * apart[k:]) for k in range(lags + 1)]
    ) / np.sum(apart**2)
