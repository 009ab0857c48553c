"""``fathom compare``: settings, numbers, the first step that differs, and pairs of seeds."""

import json

import numpy as np
import pytest
from scipy import stats

from research.reporting.comparison import compare_runs, paired_p_value
from research.reporting.selection import find_runs_of

from .conftest import ACCURACIES, write_run

LOSS = np.linspace(2.0, 1.0, 10)


def test_two_equal_runs_are_identical(fathom, outputs):
    signal = np.ones((10, 3))
    for name in ("a", "b"):
        settings = {"model.depth": 2, "name": name}
        write_run(outputs / name, settings, loss=LOSS, signal=signal)

    said = fathom("compare", "a", "b")

    assert said.code == 0, said.err
    assert "identical: the same settings, and all 40 recorded numbers are equal up to step 9" in (
        said.out
    )


def test_runs_of_two_seeds_differ_from_the_first_step_with_other_numbers(fathom, outputs):
    later = LOSS.copy()
    later[4:] *= 1.5
    write_run(outputs / "a", {"seed": 0}, loss=LOSS)
    write_run(outputs / "b", {"seed": 1}, loss=later)

    said = fathom("compare", "a", "b")

    assert "settings that differ: seed" in said.out
    assert "the records differ from step 4 on: train_loss is" in said.out
    assert "0.33 of the larger one" in said.out


def test_the_first_difference_is_found_in_the_layers(outputs):
    signal = np.ones((10, 3))
    other = signal.copy()
    other[2, 1] = 3.0
    later = LOSS.copy()
    later[5:] += 0.5
    a = write_run(outputs / "a", {"model.depth": 2}, loss=LOSS, signal=signal)
    b = write_run(outputs / "b", {"model.depth": 2}, loss=later, signal=other)

    comparison = compare_runs([a], [b])

    first = comparison.first_difference
    assert first
    assert first.step == 2
    assert first.table == "profiles"
    assert first.column == "signal_grad"
    assert first.layer == 0  # whose output is signal 1
    assert (first.a, first.b) == (1.0, 3.0)
    assert not comparison.is_identical
    assert not comparison.settings


def test_a_changed_setting_is_named_with_both_values(fathom, outputs):
    write_run(outputs / "a", {"optimizer.learning_rate": 0.1}, loss=LOSS)
    write_run(outputs / "b", {"optimizer.learning_rate": 0.3}, loss=LOSS)

    said = fathom("compare", "a", "b")

    assert "settings that differ: optimizer.learning_rate" in said.out
    assert "optimizer.learning_rate  0.1  0.3" in said.out
    assert "all 10 numbers that both recorded are equal" in said.out


def test_missing_values_on_both_sides_are_equal(outputs):
    loss = np.where(np.arange(10) % 2, LOSS, np.nan)
    a = write_run(outputs / "a", loss=loss)
    b = write_run(outputs / "b", loss=loss)

    assert compare_runs([a], [b]).is_identical


def test_runs_of_other_lengths_are_not_identical(outputs):
    a = write_run(outputs / "a", loss=LOSS)
    b = write_run(outputs / "b", loss=LOSS[:6])

    comparison = compare_runs([a], [b])

    assert comparison.first_difference is None
    assert comparison.lengths == (9, 5)
    assert not comparison.is_identical


def test_profiles_of_other_depths_cannot_be_compared(outputs):
    runs = []
    for depth in (2, 3):
        signal = np.ones((10, depth + 1))
        run = write_run(outputs / str(depth), {"model.depth": depth}, signal=signal)
        runs.append([run])

    comparison = compare_runs(*runs)

    assert comparison.only_in_one == ("profiles.signal_grad",)


def pairs_of(comparison, name):
    """The paired difference of a number."""
    (pairs,) = [each for each in comparison.pairs if each.quantity.name == name]
    return pairs


def test_groups_are_compared_in_pairs_of_seeds(sweep):
    none = find_runs_of("skip=none depth=4")
    identity = find_runs_of("skip=identity depth=4")

    comparison = compare_runs(none, identity)

    accuracy = pairs_of(comparison, "eval_accuracy")
    a = np.array(ACCURACIES[4, "none"])
    b = np.array(ACCURACIES[4, "identity"])
    assert accuracy.num_pairs == 3
    assert accuracy.difference == pytest.approx(np.mean(b - a))
    factor = pairs_of(comparison, "initial_factor")
    assert factor.difference == pytest.approx(2.0)


def test_pairs_also_agree_in_what_both_sides_vary(sweep):
    none = find_runs_of("skip=none")
    identity = find_runs_of("skip=identity")

    comparison = compare_runs(none, identity)

    accuracy = pairs_of(comparison, "eval_accuracy")
    assert comparison.num_unpaired == 1
    assert accuracy.num_pairs == 7
    assert accuracy.num_left_out == 1


def test_the_paired_test_is_that_of_scipy():
    rng = np.random.default_rng(3)
    a = rng.normal(0.0, 1.0, 7)
    b = a + rng.normal(0.4, 0.5, 7)

    expected = stats.ttest_rel(a, b)
    assert paired_p_value(b - a) == pytest.approx(expected.pvalue, rel=1e-10)


def test_the_paired_test_of_constant_differences():
    assert paired_p_value(np.zeros(3)) == 1.0
    assert paired_p_value(np.full(3, 0.5)) == 0.0
    assert np.isnan(paired_p_value(np.zeros(1)))


def test_the_terminal_has_both_profiles_next_to_each_other(fathom, sweep):
    said = fathom("compare", "skip=none depth=64", "skip=identity depth=64")

    assert said.code == 0, said.err
    assert "log₁₀ ‖∂L/∂h‖² at step 0," in said.out
    assert "log₁₀ ‖∂L/∂h‖² at step 1," in said.out  # the last one that was measured
    lines = said.out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("  A  "))
    assert lines[start].rstrip().endswith("B")
    # The gradient of identity is the same in every layer, that of none falls towards the input.
    assert lines[start + 1][46:].startswith("█")
    assert lines[start + 1].startswith("   ")


def test_further_words_are_filters_on_both_sides(fathom, sweep):
    said = fathom("compare", "skip=none", "skip=identity", "depth=4", "--json")

    comparison = json.loads(said.out)
    assert len(comparison["a"]) == len(comparison["b"]) == 3
    assert list(comparison) == [
        "a",
        "b",
        "identical",
        "settings",
        "numbers",
        "first_difference",
        "last_steps",
        "not_comparable",
        "pairs",
        "unpaired",
    ]
    assert comparison["settings"] == {"skip.kind": {"a": ["none"], "b": ["identity"]}}
    assert comparison["pairs"]["eval_accuracy"]["pairs"] == 3


def test_the_figure_has_both_sides(fathom, own_sweep, tmp_path):
    said = fathom("compare", "skip=none", "skip=identity", "depth=4", "--out", "pair.png")

    assert said.code == 0, said.err
    assert (tmp_path / "pair.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "compare which runs?"),
        (["skip=none"], "compare which runs?"),
        (["skip=none", "skp=identity"], "did you mean skip"),
        (["skip=none", "nothing"], "there is no run nothing"),
        (["skip=none", "skip=identity", "--out", "a.png"], "the runs of A differ in model.depth"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(fathom, sweep, words, part):
    said = fathom("compare", *words)

    assert said.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert part in said.err


def test_runs_that_cannot_be_paired_are_named(fathom, outputs):
    for number, rate in enumerate((0.1, 0.2)):
        write_run(outputs / "a" / str(number), {"optimizer.learning_rate": rate})
        write_run(outputs / "b" / str(number), {"optimizer.learning_rate": rate + 1})

    said = fathom("compare", "outputs/a", "outputs/b")

    assert said.code == 2
    assert "so they cannot be paired (they differ in optimizer.learning_rate)" in said.err
