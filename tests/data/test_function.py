"""Regression on known functions."""

import numpy as np
import pytest

from research.config.data_settings import Data, Function
from research.config.schema import Config, DataKind
from research.config.validation import check
from research.data.function import FUNCTIONS
from research.data.sources import describe, load


def settings(name, **changes):
    return Data(name=DataKind["function"], function=Function[name], **changes)


def evaluate(name, x):
    return FUNCTIONS[name].evaluate(*x.T.astype(float))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_targets_are_the_values_of_the_function(name):
    dataset = load(settings(name, examples=500))
    assert dataset.is_regression
    assert dataset.x.shape == (500, FUNCTIONS[name].num_inputs)
    assert dataset.y.shape == (500, 1)
    assert dataset.y[:, 0] == pytest.approx(evaluate(name, dataset.x), abs=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inputs_are_uniform_and_the_splits_share_none(name):
    dataset = load(settings(name, examples=500))
    assert np.abs(dataset.x).max() <= 1
    assert abs(dataset.x.mean()) < 0.1
    train_rows = {row.tobytes() for row in dataset.x}
    assert train_rows.isdisjoint(row.tobytes() for row in dataset.eval_x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_noise_is_added_to_the_training_targets_alone(name):
    clean = load(settings(name, examples=500))
    noisy = load(settings(name, examples=500, noise=0.5))
    assert (noisy.y - clean.y).std() == pytest.approx(0.5, rel=0.1)
    assert np.array_equal(noisy.eval_y, clean.eval_y)


def test_every_function_can_be_selected():
    assert {function.name for function in Function} == set(FUNCTIONS)


def test_a_grid_of_one_input_is_evenly_spaced():
    dataset = load(settings("sine", examples=256, grid=True))
    axis = np.linspace(-1, 1, 256)
    np.testing.assert_allclose(dataset.x, axis[:, None], atol=1e-7)


def test_a_grid_of_two_inputs_is_evenly_spaced_and_the_last_varies_fastest():
    dataset = load(settings("surface", examples=256, grid=True))
    axis = np.linspace(-1, 1, 16)
    first = np.repeat(axis, 16)
    last = np.tile(axis, 16)
    np.testing.assert_allclose(dataset.x, np.column_stack([first, last]), atol=1e-7)


@pytest.mark.parametrize("name", ["sine", "surface"])
def test_a_grid_has_the_values_of_the_function_and_changes_training_alone(name):
    random = load(settings(name, examples=256))
    grid = load(settings(name, examples=256, grid=True))
    assert grid.y[:, 0] == pytest.approx(evaluate(name, grid.x), abs=1e-5)
    assert np.array_equal(grid.eval_x, random.eval_x)


def test_a_grid_of_two_inputs_needs_a_square_of_examples():
    message = (
        r"^data.examples must be n\^2 if data.grid is true, got 1000 \(nearest: 961 and 1024\)$"
    )
    with pytest.raises(ValueError, match=message):
        describe(settings("surface", examples=1000, grid=True))


def test_regression_targets_need_a_loss_for_them():
    config = Config()
    config.data.name = DataKind["function"]
    with pytest.raises(ValueError, match="loss must be mse .*, got cross_entropy"):
        check(config)
