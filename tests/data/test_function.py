"""Regression on known functions."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from research.config.data_options import Function, FunctionData
from research.data.compatibility import check_data
from research.data.function import FUNCTIONS
from research.data.sources import describe, load

from ..builders import make_config
from .rows import have_common_rows


def load_function(name, **changes):
    return load(settings(name, **changes))


def settings(name, **changes):
    return FunctionData(
        function=Function[name],
        **changes,
    )


def evaluate(name, rows):
    """The values [n, 1] of a function."""
    columns = rows.astype(float).T
    return FUNCTIONS[name].evaluate(*columns)[:, None]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_targets_are_the_values_of_the_function(name):
    dataset = load_function(name, examples=500)
    assert dataset.is_regression
    assert dataset.x.shape == (500, FUNCTIONS[name].num_inputs)
    assert dataset.y.shape == (500, 1)
    expected = evaluate(name, dataset.x)
    assert dataset.y == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inputs_are_uniform_and_the_splits_share_none(name):
    dataset = load_function(name, examples=500)
    assert np.abs(dataset.x).max() <= 1
    assert abs(dataset.x.mean()) < 0.1
    assert not have_common_rows(dataset.x, dataset.eval_x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_noise_is_added_to_the_training_targets_alone(name):
    clean = load_function(name, examples=500)
    noisy = load_function(name, examples=500, noise=0.5)
    noise = noisy.y - clean.y
    assert noise.std() == pytest.approx(0.5, rel=0.1)
    assert_array_equal(noisy.eval_y, clean.eval_y)


def test_every_function_can_be_selected():
    assert {function.name for function in Function} == set(FUNCTIONS)


def test_a_grid_of_one_input_is_evenly_spaced():
    dataset = load_function("sine", examples=256, grid=True)
    axis = np.linspace(-1, 1, 256)
    assert_allclose(dataset.x, axis[:, None], atol=1e-7)


def test_a_grid_of_two_inputs_is_evenly_spaced_and_the_last_varies_fastest():
    dataset = load_function("surface", examples=256, grid=True)
    axis = np.linspace(-1, 1, 16)
    first = np.repeat(axis, 16)
    last = np.tile(axis, 16)
    expected = np.column_stack([first, last])
    assert_allclose(dataset.x, expected, atol=1e-7)


@pytest.mark.parametrize("name", ["sine", "surface"])
def test_a_grid_has_the_values_of_the_function_and_changes_training_alone(name):
    random = load_function(name, examples=256)
    grid = load_function(name, examples=256, grid=True)
    expected = evaluate(name, grid.x)
    assert grid.y == pytest.approx(expected, abs=1e-5)
    assert_array_equal(grid.eval_x, random.eval_x)


def test_a_grid_of_two_inputs_needs_a_square_of_examples():
    message = (
        r"^data.examples must be n\^2 if data.grid is true, got 1000 \(nearest: 961 and 1024\)$"
    )
    with pytest.raises(ValueError, match=message):
        describe(settings("surface", examples=1000, grid=True))


def test_regression_targets_need_a_loss_for_them():
    config = make_config({"data": "function"})
    with pytest.raises(ValueError, match="loss must be mse .*, got cross_entropy"):
        check_data(config)


def test_a_part_of_a_grid_comes_from_the_whole_interval():
    part = load_function("sine", examples=200, grid=True, limit=20)
    assert part.x.min() < -0.5
    assert part.x.max() > 0.5
    whole = load_function("sine", examples=200, grid=True)
    assert set(part.x.ravel()) < set(whole.x.ravel())


def test_a_network_in_float64_reads_the_function_in_float64():
    arrays = load_function("sine", examples=500).arrays(np.float64)
    assert_allclose(arrays["y"], evaluate("sine", arrays["x"]), rtol=0, atol=1e-15)
    assert arrays["x"].dtype == np.float64
