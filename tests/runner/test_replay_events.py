"""Which of the numbers of some steps is named as the origin of what went wrong."""

import numpy as np
import pytest

from research.runner.replay_events import find_events, places_of, read_values
from research.runner.replay_search import first_true

LAYERS = 3
PLACES = places_of(LAYERS, ["embedding", "head"])


def make_row(**changes):
    """The numbers of a usual step; a change is an index and a value, or the value of a metric."""
    profile = {
        "weight_norm": np.ones(LAYERS + 2),
        "activation_rms": np.ones(LAYERS + 1),
        "signal_grad": np.ones(LAYERS + 1),
        "grad_norm": np.ones(LAYERS),
        "update_norm": np.full(LAYERS, 0.1),
    }
    metrics = {"train_loss": 2.0, "learning_rate": 0.1}
    for name, change in changes.items():
        if name in metrics:
            metrics[name] = change
        else:
            index, value = change
            profile[name][index] = value
    return read_values(PLACES, metrics, profile)


def events_after(usual, *rows, first_step=0):
    """The events in so many usual steps and the rows after them."""
    values = [make_row() for _ in range(usual)] + list(rows)
    return find_events(PLACES, range(len(values)), np.ma.stack(values), first_step)


@pytest.mark.parametrize(
    ("changes", "quantity", "place", "layer"),
    [
        ({"weight_norm": (1, np.nan)}, "parameter", "layer 1", 1),
        ({"weight_norm": (LAYERS, np.nan)}, "parameter", "the embedding", None),
        ({"activation_rms": (2, np.inf)}, "activation", "the output of layer 1", 1),
        ({"activation_rms": (0, 9.0)}, "activation", "the output of the embedding", None),
        ({"train_loss": 30.0}, "loss", "", None),
        ({"signal_grad": ([1, 2], np.inf)}, "signal gradient", "the input of layer 2", 2),
        ({"signal_grad": (LAYERS, np.inf)}, "signal gradient", "the output of layer 2", None),
        ({"grad_norm": ([0, 1], np.nan)}, "parameter gradient", "layer 1", 1),
        ({"learning_rate": 0.3}, "learning rate", "", None),
        ({"update_norm": (2, 5.0)}, "update", "layer 2", 2),
    ],
)
def test_the_first_number_in_the_order_of_the_step_is_named(changes, quantity, place, layer):
    (event,) = events_after(8, make_row(**changes))
    assert (event.step, event.quantity, event.place, event.layer) == (8, quantity, place, layer)


def test_events_that_follow_from_each_other_begin_with_the_origin():
    rate = make_row(learning_rate=100.0, update_norm=(slice(None), 50.0))
    overflow = make_row(activation_rms=([2, 3], np.inf), train_loss=np.nan)
    events = events_after(8, rate, make_row(), overflow)
    assert [(event.step, event.quantity) for event in events] == [
        (8, "learning rate"),
        (8, "update"),
        (10, "activation"),
        (10, "loss"),
    ]
    assert events[1].others == LAYERS - 1
    assert events[1].usual == pytest.approx(0.1)
    assert events[2].value is None


def test_an_earlier_jump_that_came_back_is_left_out():
    jump = make_row(train_loss=50.0)
    usual = [make_row() for _ in range(20)]
    events = events_after(8, jump, *usual, make_row(weight_norm=(0, np.inf)))
    assert [event.quantity for event in events] == ["parameter"]


def test_nothing_is_named_where_nothing_happens():
    assert events_after(20) == []
    assert events_after(3, make_row(train_loss=50.0)) == []  # too few steps to compare with
    assert events_after(8, make_row(train_loss=50.0), make_row(), first_step=9) == []


def test_a_number_that_was_not_measured_is_no_event():
    values = read_values(PLACES, {"train_loss": 1.0}, {})
    assert values.count() == 1


@pytest.mark.parametrize("least", range(5))
def test_bisection_finds_the_least_number(least):
    asked = []

    def holds(number):
        asked.append(number)
        return number >= least

    assert first_true(0, 4, holds) == least
    assert len(asked) <= 3
