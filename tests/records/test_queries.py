"""Numbers that claims and figures take from recorded runs."""

import math

import numpy as np
import pytest

from research.records.queries import (
    completed,
    final_by_seed,
    means_up_to_evaluations,
    metric_curves,
    one_per_seed,
    setting_values,
    tabulate_by_seed,
    window_means,
)
from research.records.runs import Run


class MemoryRun(Run):
    """A run that has a seed and a final loss, without files."""

    def __init__(self, seed=0, status="done", **metrics):
        self.config = {"seed": seed}
        self.info = {"status": status, "final": {"train_loss": 0.5}}
        self.metrics = metrics


def test_an_incomplete_last_window_is_dropped():
    values = np.array([1.0, 3.0, 5.0, 7.0, 100.0])

    means = window_means(values, 2)

    assert means.tolist() == [2.0, 6.0]


def test_a_window_of_one_step_returns_the_metric_itself():
    losses = np.random.default_rng(0).standard_normal(7)
    run = MemoryRun(train_loss=losses)

    curves = metric_curves([run, run], "train_loss")

    assert np.array_equal(curves, [losses, losses])


def test_a_run_that_diverged_has_no_values_after_its_end():
    complete = MemoryRun(train_loss=np.arange(6.0))
    diverged = MemoryRun(train_loss=np.arange(5.0))

    curves = metric_curves([complete, diverged], "train_loss", window=2)

    np.testing.assert_array_equal(curves, [[0.5, 2.5, 4.5], [0.5, 2.5, np.nan]])


def test_means_up_to_evaluations_cover_every_step_once():
    evaluated = np.full(7, np.nan)
    evaluated[1] = 0.5
    evaluated[4] = 0.6
    run = MemoryRun(train_accuracy=np.arange(7.0), eval_accuracy=evaluated)

    means = means_up_to_evaluations([run], "train_accuracy")

    first = (0 + 1) / 2
    last = (2 + 3 + 4 + 5 + 6) / 5
    assert means.tolist() == [[first, last]]


def test_the_last_run_of_each_seed_remains():
    a = MemoryRun(seed=2)
    b = MemoryRun(seed=0)
    c = MemoryRun(seed=2)

    assert one_per_seed([a, b, c]) == [c, b]
    assert setting_values([a, b, c], "seed") == [0, 2]


def test_a_table_has_a_row_for_each_seed_and_a_column_for_each_value():
    runs = []
    for depth in (4, 2):
        for seed in (1, 0):
            run = MemoryRun(seed=seed)
            run.config["model.depth"] = depth
            runs.append(run)

    table = tabulate_by_seed(
        runs, "model.depth", [2, 4], lambda run: 10 * run["model.depth"] + run["seed"]
    )

    assert table.tolist() == [[20, 40], [21, 41]]


def test_a_table_of_runs_that_differ_in_more_than_the_seed_is_refused():
    with pytest.raises(ValueError, match="2 runs"):
        tabulate_by_seed([MemoryRun(), MemoryRun()], "seed", [0], lambda run: run["seed"])


def test_a_diverged_run_is_not_completed_and_its_final_loss_is_infinite():
    done = MemoryRun(seed=0)
    diverged = MemoryRun(seed=1, status="diverged")

    losses = final_by_seed([done, diverged], "train_loss")

    assert completed([done, diverged]) == [done]
    assert losses == {0: 0.5, 1: math.inf}
