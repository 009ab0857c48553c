"""Evenly spaced rows of a table that grows."""

import numpy as np
import pytest

from research.records.trackers.thinned_rows import ThinnedRows


def kept_steps(num_rows, capacity, chunk):
    rows = ThinnedRows(capacity)
    for start in range(0, num_rows, chunk):
        steps = np.arange(start, min(start + chunk, num_rows))
        rows.add({"step": steps, "profile": np.outer(steps, np.ones(3))})
    columns = rows.columns()
    assert (columns["profile"] == columns["step"][:, np.newaxis]).all()
    return columns["step"].tolist()


@pytest.mark.parametrize("num_rows", [1, 2, 8, 9, 17, 100, 1000])
def test_rows_are_evenly_spaced_with_the_first_and_the_last(num_rows):
    steps = kept_steps(num_rows, capacity=8, chunk=7)
    assert steps[0] == 0
    assert steps[-1] == num_rows - 1
    assert min(8, num_rows) // 2 <= len(steps) <= 9
    assert len(set(np.diff(steps[:-1]))) <= 1


@pytest.mark.parametrize("chunk", [1, 3, 50, 1000])
def test_what_is_kept_does_not_depend_on_how_rows_are_added(chunk):
    assert kept_steps(1000, 8, chunk) == kept_steps(1000, 8, 7)


def test_nothing_is_kept_of_nothing():
    rows = ThinnedRows(8)
    rows.add({})
    assert not rows
    assert rows.columns() == {}
