"""Stretches of steps over which a condition holds, and the rows that are kept of a long run."""

import numpy as np
import pytest

from research.diagnosis.episodes import find_episodes
from research.diagnosis.history import RowHistory


def bounds(holds):
    return [(episode.first, episode.last) for episode in find_episodes(np.array(holds))]


@pytest.mark.parametrize(
    ("holds", "expected"),
    [
        ([], []),
        ([False], []),
        ([True], [(0, 0)]),
        ([True] * 8 + [False] * 12, [(0, 7)]),
        ([False] * 7 + [True] * 13, [(7, 19)]),
        ([False] * 9 + [True], []),
        ([True] * 5 + [False] + [True] * 14, [(0, 19)]),
    ],
)
def test_single_steps_neither_make_an_episode_nor_end_one(holds, expected):
    assert bounds(holds) == expected


@pytest.mark.parametrize("onset", [100, 333, 900])
def test_the_onset_of_a_clean_change_is_exact(onset):
    assert bounds(np.arange(1000) >= onset) == [(onset, 999)]


def test_the_onset_of_a_noisy_change_is_close():
    generator = np.random.default_rng(0)
    holds = (np.arange(1000) >= 400) ^ (generator.random(1000) < 0.2)
    ((first, last),) = bounds(holds)
    assert abs(first - 400) <= 50
    assert last == 999


def rows(first, last):
    steps = np.arange(first, last)
    return {"step": steps, "value": np.column_stack([steps, -steps])}


@pytest.mark.parametrize("pieces", [[(0, 100)], [(0, 1), (1, 37), (37, 99), (99, 100)]])
def test_what_is_kept_does_not_depend_on_how_rows_arrive(pieces):
    history = RowHistory(capacity=16)
    for first, last in pieces:
        history.add(rows(first, last))

    columns = history.columns()

    np.testing.assert_array_equal(columns["step"], [*range(0, 100, 8), 99])
    np.testing.assert_array_equal(columns["value"][:, 1], -columns["step"])


def test_all_rows_of_a_short_run_are_kept():
    history = RowHistory()
    history.add(rows(0, 300))
    assert len(history.columns()["step"]) == 300
