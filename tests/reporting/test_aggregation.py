"""Means and intervals over seeds, checked against SciPy; what is left out is counted."""

import math

import numpy as np
import pytest
from scipy import stats

from research.reporting.aggregation import (
    Group,
    average_with_range,
    column_means,
    format_interval,
    group_runs,
    leave_out_clashing,
    left_out_in_words,
    mean_interval,
    mean_intervals,
    summarize,
)
from research.reporting.quantities import BY_NAME, find_quantity
from research.reporting.selection import select_runs

from .conftest import ends_of, t_interval, write_run

ACCURACY = BY_NAME["eval_accuracy"]


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_the_interval_is_that_of_scipy(count):
    random = np.random.default_rng(count)
    values = random.normal(3.0, 2.0, count)

    interval = mean_interval(values)

    assert interval == pytest.approx(t_interval(values), rel=1e-12)


def test_columns_with_gaps_have_the_intervals_of_their_values():
    values = np.array(
        [
            [1.0, 2.0, np.nan],
            [2.0, np.nan, np.nan],
            [4.0, 5.0, 7.0],
        ]
    )

    low, high = mean_intervals(values)

    first = mean_interval([1.0, 2.0, 4.0])
    second = mean_interval([2.0, 5.0])
    np.testing.assert_allclose(low, [first[0], second[0], np.nan])
    np.testing.assert_allclose(high, [first[1], second[1], np.nan])
    means = np.nanmean(values, axis=0)
    np.testing.assert_allclose(column_means(values), means)


def test_a_mean_and_a_range_leave_out_the_curves_that_have_ended():
    curves = np.array([[1.0, 2.0], [3.0, np.nan]])

    averaged = average_with_range(curves)

    assert averaged.mean.tolist() == [2.0, 2.0]
    assert averaged.low.tolist() == [1.0, 2.0]
    assert averaged.high.tolist() == [3.0, 2.0]


def test_a_single_curve_has_no_range():
    averaged = average_with_range(np.ones((1, 3)))

    assert np.all(np.isnan(averaged.low))
    assert np.all(np.isnan(averaged.high))


def test_a_summary_averages_the_runs_that_ended_well_and_counts_the_others(outputs):
    statuses = ["done", "done", "done", "diverged", "failed", "running", "done"]
    accuracies = [0.5, 0.7, 0.9, 0.1, 0.3, 0.2, math.nan]
    for seed, (status, accuracy) in enumerate(zip(statuses, accuracies, strict=True)):
        write_run(
            outputs / "a" / str(seed),
            {"seed": seed},
            status=status,
            final={"eval_accuracy": accuracy},
        )
    (group,) = group_runs(select_runs([]), [])

    summary = summarize(group, ACCURACY, usual={*range(9)})

    ended_well = accuracies[:3]
    assert summary.mean == pytest.approx(np.mean(ended_well))
    assert ends_of(summary) == pytest.approx(t_interval(ended_well))
    assert summary.count == 3
    assert summary.num_seeds == 9
    assert summary.left_out == {
        "diverged": 1,
        "failed": 1,
        "unfinished": 1,
        "without a value": 1,
        "missing": 2,
    }
    assert not summary.is_complete
    assert left_out_in_words([summary]) == (
        "1 diverged, 1 failed, 1 unfinished, 1 without a value, 2 missing"
    )


def test_a_factor_has_its_geometric_mean(outputs):
    factors = (0.5, 0.8, 1.25)
    for seed, factor in enumerate(factors):
        verdict = {"initial": {"factor_per_layer": factor}}
        write_run(outputs / str(seed), {"seed": seed}, verdict=verdict)
    (group,) = group_runs(select_runs([]), [])

    summary = summarize(group, BY_NAME["initial_factor"])

    expected = np.exp(t_interval(np.log(factors)))
    assert summary.mean == pytest.approx(stats.gmean(factors))
    assert ends_of(summary) == pytest.approx(tuple(expected))


def test_a_run_that_diverged_counts_where_the_number_is_that_of_its_first_step(outputs):
    verdict = {"initial": {"factor_per_layer": 2.0}}
    run = write_run(outputs / "a", status="diverged", verdict=verdict)

    summary = summarize(Group({}, (run,)), BY_NAME["initial_factor"])

    assert summary.mean == pytest.approx(2.0)


def test_one_value_has_no_interval(outputs):
    run = write_run(outputs / "a", final={"eval_accuracy": 0.5})

    summary = summarize(Group({}, (run,)), ACCURACY)

    assert summary.mean == 0.5
    assert math.isnan(summary.low)
    assert summary.is_complete


def test_a_run_that_was_recorded_twice_counts_once(outputs):
    write_run(outputs / "one" / "a", final={"eval_accuracy": 0.5})
    write_run(outputs / "two" / "a", final={"eval_accuracy": 0.5})
    (group,) = group_runs(select_runs([]), [])

    summary = summarize(group, ACCURACY)

    assert summary.count == 1
    assert summary.left_out == {"recorded twice": 1}


def test_two_runs_that_only_look_alike_are_refused(outputs):
    write_run(outputs / "one", {"model.depth": 2})
    write_run(outputs / "two", {"model.depth": 4})

    with pytest.raises(ValueError, match="same seed here but differ in model.depth"):
        group_runs(select_runs([]), [])


def of_study(directory, accuracy=None, **options):
    """A run with the default settings that has its study in its identity."""
    final = {} if accuracy is None else {"eval_accuracy": accuracy}
    info = {"id": str(directory)}
    return write_run(directory, options.pop("settings", None), final=final, info=info, **options)


def test_a_training_in_two_studies_counts_once(outputs):
    of_study(outputs / "first" / "a", 0.5)
    of_study(outputs / "sweep" / "seed=0", 0.5)
    (group,) = group_runs(select_runs([]), [])

    summary = summarize(group, ACCURACY)

    assert summary.values == (0.5,)
    assert summary.left_out == {"recorded twice": 1}
    assert summary.is_complete


@pytest.mark.parametrize("first", ["finished", "interrupted"])
def test_of_the_same_settings_the_finished_run_counts(outputs, first):
    runs = {
        "finished": of_study(outputs / "a" / "a", 0.5),
        "interrupted": of_study(outputs / "b" / "b", status="interrupted", steps=0),
    }
    ordered = sorted(runs, key=lambda name: name != first)
    (group,) = group_runs([runs[name] for name in ordered], [])

    summary = summarize(group, ACCURACY)

    assert summary.values == (0.5,)
    assert summary.left_out == {"unfinished and trained again": 1}
    assert summary.is_complete


def test_runs_with_the_same_settings_and_other_results_are_not_averaged(outputs):
    of_study(outputs / "first" / "a", 0.5)
    of_study(outputs / "sweep" / "seed=0", 0.6)
    of_study(outputs / "sweep" / "seed=1", 0.7, settings={"seed": 1})

    averageable = leave_out_clashing(select_runs([]))

    assert [run.directory.name for run in averageable.runs] == ["seed=1"]
    assert averageable.notes == [
        "not averaged: outputs/first/a and outputs/sweep/seed=0, which have the same settings and "
        "seed but other numbers"
    ]


CLASH = (
    "outputs/first/a and outputs/sweep/seed=0, which have the same settings and seed but other "
    "numbers"
)


@pytest.mark.parametrize(
    "words",
    [
        ["table"],
        ["table", "--format", "csv"],
        ["table", "--json"],
        ["report"],
        ["plot", "--kind", "line"],
        ["plot", "--kind", "curves"],
        ["plot", "--kind", "profile"],
        ["plot", "--kind", "heatmap"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("accuracy", [0.5, 0.6], ids=["equal", "clashing"])
def test_no_command_refuses_all_runs_because_of_two(fathom, outputs, words, accuracy):
    signal = np.ones((2, 17))
    of_study(outputs / "first" / "a", 0.5, signal=signal)
    of_study(outputs / "sweep" / "seed=0", accuracy, signal=signal)
    for seed in (1, 2):
        settings = {"seed": seed}
        of_study(outputs / "sweep" / f"seed={seed}", 0.7, settings=settings, signal=signal)
    of_study(outputs / "stopped" / "a", status="interrupted", steps=0)

    said = fathom(*words)

    assert said.code == 0, said.err
    if words != ["report"]:
        shown = said.err if {"csv", "--json"} & {*words} else said.out
        assert (CLASH in shown) == (accuracy == 0.6)


@pytest.mark.parametrize("command", ["table", "plot"])
def test_a_clash_alone_is_refused_in_one_line(fathom, outputs, command):
    of_study(outputs / "first" / "a", 0.5)
    of_study(outputs / "sweep" / "seed=0", 0.6)

    said = fathom(command)

    assert said.code == 2
    assert said.err == f"fathom: {CLASH}: select one of them by a filter\n"


def test_a_report_shows_runs_of_which_none_can_be_averaged(fathom, outputs):
    for seed in (0, 1):
        of_study(outputs / f"seed={seed}", settings={"seed": seed}, status="interrupted", steps=0)

    assert fathom("report").code == 0


@pytest.mark.parametrize(
    ("mean", "half_width", "text"),
    [
        (0.93124, 0.00412, "0.931 ± 0.004"),
        (0.93124, 0.0132, "0.931 ± 0.013"),
        (12.34, 3.2, "12 ± 3"),
        (0.5, 0.0, "0.500 ± 0.000"),
        (1.2e-7, 3e-8, "(1.2 ± 0.3)e-07"),
        (-0.25, 0.03, "-0.25 ± 0.03"),
        (0.0, 0.0, "0.00 ± 0.00"),
    ],
)
def test_a_mean_has_the_digits_of_its_interval(mean, half_width, text):
    assert format_interval(mean, half_width) == text


def test_the_last_value_of_a_metric_is_a_number_of_a_run(outputs):
    run = write_run(outputs / "a")
    run.metrics["learning_rate"] = np.array([1.0, 0.5, np.nan])

    quantity = find_quantity("learning-rate", [run])

    assert quantity.value(run) == 0.5


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("eval_acuracy", "did you mean eval_accuracy?"),
        ("signal_grad", "signal_grad is a gauge"),
        ("sharpness", "no run recorded sharpness: measure.inspect asks for it"),
    ],
)
def test_a_number_that_there_is_not_is_one_line(outputs, name, part):
    run = write_run(outputs / "a")

    with pytest.raises(ValueError, match=part.replace("?", r"\?")):
        find_quantity(name, [run])
