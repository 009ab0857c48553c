"""Rows that wait are taken in order, joined where their columns are the same."""

import numpy as np
import pytest

from research.records.trackers.gathered_rows import GatheredRows, RowBatch


def batch(
    steps,
    *,
    layers=None,
    **metrics,
):
    """Rows with a loss, and with profiles where there are layers."""
    step = np.array(steps)
    profiles = {}
    if layers is not None:
        profiles = {"step": step, "grad_norm": np.ones((len(steps), layers)) * step[:, np.newaxis]}
    diagnostics = {steps[0]: {"sharpness": np.array(steps[0])}}
    return RowBatch({"step": step, "train_loss": step / 2} | metrics, profiles, diagnostics)


def taken(*batches):
    rows = GatheredRows()
    for each in batches:
        rows.add(each)
    return rows.take()


def test_rows_with_the_same_columns_become_one_batch():
    (joined,) = taken(batch([0, 1], layers=3), batch([2, 3], layers=3))

    assert joined.metrics["step"].tolist() == [0, 1, 2, 3]
    assert joined.metrics["train_loss"].tolist() == [0, 0.5, 1, 1.5]
    assert joined.profiles["grad_norm"][:, 2].tolist() == [0, 1, 2, 3]
    assert joined.diagnostics.keys() == {0, 2}


def test_rows_without_profiles_go_with_those_that_have_some():
    (joined,) = taken(batch([0]), batch([1], layers=3), batch([2]), batch([3], layers=3))

    assert joined.metrics["step"].tolist() == [0, 1, 2, 3]
    assert joined.profiles["step"].tolist() == [1, 3]


@pytest.mark.parametrize("different", [batch([1], layers=4), batch([1], accuracy=np.ones(1))])
def test_rows_with_other_columns_are_a_batch_of_their_own(different):
    batches = taken(batch([0], layers=3), different, batch([2], layers=3))

    assert [each.metrics["step"].tolist() for each in batches] == [[0], [1], [2]]


def test_steps_without_a_value_stay_without_one():
    missing = np.ma.masked_all(2)

    (joined,) = taken(batch([0], eval_loss=np.ones(1)), batch([1, 2], eval_loss=missing))

    assert joined.metrics["eval_loss"].tolist() == [1, None, None]


def test_rows_are_taken_once_and_the_first_ones_are_told_from_those_that_follow():
    rows = GatheredRows()

    assert rows.add(batch([0]))
    assert not rows.add(batch([1]))
    assert len(rows.take()) == 1
    assert rows.take() == []
    assert rows.add(batch([2]))
