"""Rows that wait are taken in order, joined where their columns are the same."""

import numpy as np
import pytest

from research.records.trackers.gathered_rows import GatheredRows, RowBatch


def make_batch(*steps, layers=0, **metrics):
    """Rows whose numbers are their steps, with a profile where there are layers."""
    step = np.array(steps)
    columns = {"step": step, "train_loss": step}
    columns |= metrics
    profiles = {}
    if layers:
        profile = np.tile(step, (layers, 1)).T
        profiles = {"step": step, "grad_norm": profile}
    first = steps[0]
    diagnostics = {first: {"sharpness": np.array(first)}}
    return RowBatch(columns, profiles, diagnostics)


def take(*batches):
    """What is taken after these batches were added."""
    rows = GatheredRows()
    for batch in batches:
        rows.add(batch)
    return rows.take()


def test_rows_with_the_same_columns_become_one_batch():
    first = make_batch(0, 1, layers=3)
    second = make_batch(2, 3, layers=3)

    (joined,) = take(first, second)

    assert joined.metrics["step"].tolist() == [0, 1, 2, 3]
    assert joined.metrics["train_loss"].tolist() == [0, 1, 2, 3]
    assert joined.profiles["grad_norm"].shape == (4, 3)
    assert joined.profiles["grad_norm"][:, 2].tolist() == [0, 1, 2, 3]
    assert joined.diagnostics.keys() == {0, 2}


def test_rows_without_profiles_go_with_those_that_have_some():
    measured = make_batch(1, layers=3)

    (joined,) = take(make_batch(0), measured, make_batch(2))

    assert joined.metrics["step"].tolist() == [0, 1, 2]
    assert joined.profiles["step"].tolist() == [1]


OTHERS = {
    "layers": make_batch(1, layers=4),
    "metrics": make_batch(1, accuracy=np.ones(1)),
}


@pytest.mark.parametrize("different", OTHERS)
def test_rows_with_other_columns_are_a_batch_of_their_own(different):
    first = make_batch(0, layers=3)
    last = make_batch(2, layers=3)

    batches = take(first, OTHERS[different], last)

    steps = [int(batch.metrics["step"][0]) for batch in batches]
    assert steps == [0, 1, 2]


def test_steps_without_a_value_stay_without_one():
    evaluated = make_batch(0, eval_loss=np.ones(1))
    others = make_batch(1, 2, eval_loss=np.ma.masked_all(2))

    (joined,) = take(evaluated, others)

    assert joined.metrics["eval_loss"].tolist() == [1, None, None]


def test_rows_are_taken_once():
    rows = GatheredRows()
    rows.add(make_batch(0))

    assert len(rows.take()) == 1
    assert rows.take() == []


def test_the_first_rows_are_known_from_those_that_follow():
    rows = GatheredRows()

    assert rows.add(make_batch(0))
    assert not rows.add(make_batch(1))
    rows.take()
    assert rows.add(make_batch(2))
