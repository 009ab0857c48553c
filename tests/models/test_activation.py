"""Nonlinearities by their formulas, their slopes by finite differences, and how much of a layer is asleep."""

import jax.numpy as jnp
import numpy as np
import pytest

from research.config import schema as config
from research.models.activation import ACTIVATIONS, greatest_slope, slope, unit_statistics
from research.training.precision import scope

every_activation = pytest.mark.parametrize(
    "name", [option.name for option in config.ActivationKind]
)
Z = np.linspace(-7, 7, 1000)  # 0 itself, where rectifiers have no slope, is not among them


def by_difference(phi, z, h=1e-5):
    return (np.asarray(phi(z + h)) - np.asarray(phi(z - h))) / (2 * h)


@every_activation
def test_value_and_slope(name, formulas):
    phi = formulas["activation"][name]
    with scope("float64"):
        np.testing.assert_allclose(
            ACTIVATIONS[name](jnp.asarray(Z)), phi(Z), rtol=1e-12, atol=1e-13
        )
        np.testing.assert_allclose(slope(name, jnp.asarray(Z)), by_difference(phi, Z), atol=1e-9)


@every_activation
def test_greatest_slope(name, formulas):
    with scope("float64"):
        finest = np.max(
            np.abs(by_difference(formulas["activation"][name], np.linspace(-6, 6, 10**5)))
        )
    np.testing.assert_allclose(greatest_slope(name), finest, rtol=3e-4)


@every_activation
def test_float16_is_kept_and_its_range_survived(name):
    z = jnp.asarray([-6e4, -100, -1, 0, 1, 100, 6e4], jnp.float16)
    out = ACTIVATIONS[name](z)
    assert out.dtype == z.dtype
    assert np.all(np.isfinite(out)) and np.all(np.isfinite(slope(name, z)))


def test_dead_units_are_zero_on_the_whole_batch():
    z = jnp.asarray([[-1.0, -1.0, 1.0, 0.0], [-2.0, 1.0, 2.0, -1.0]])
    measured = unit_statistics("relu", z)
    assert measured["dead"] == 2 / 4  # the first and the last unit
    assert measured["saturated"] == 5 / 8  # elements without a slope
    assert unit_statistics("tanh", z)["dead"] == 0


def test_saturated_elements_lie_where_the_slope_is_flat():
    """1 - tanh² < 0.05 beyond |z| = 2.1783; a sigmoid is flat to the same degree at twice that."""
    z = jnp.asarray([[-3.0, -2.2, -2.1, 0.0], [2.1, 2.2, 3.0, 1.0]])
    assert unit_statistics("tanh", z)["saturated"] == 4 / 8
    assert unit_statistics("sigmoid", 2 * z)["saturated"] == 4 / 8
    assert unit_statistics("linear", z)["saturated"] == 0
    assert unit_statistics("tanh", z, flat=0.999)["saturated"] == 7 / 8


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid"])
def test_statistics_against_numpy_with_a_time_axis(name, formulas):
    z = 3 * np.random.default_rng(0).standard_normal((2, 3, 6)) - 2 * np.arange(6)
    measured = unit_statistics(name, jnp.asarray(z, jnp.float32))
    slopes = (
        np.abs(by_difference(formulas["activation"][name], z))
        if name != "relu"
        else (z > 0).astype(float)
    )
    greatest = {"relu": 1, "tanh": 1, "sigmoid": 0.25}[name]
    np.testing.assert_allclose(measured["saturated"], np.mean(slopes < 0.05 * greatest), rtol=1e-6)
    silent = (z <= 0).all((0, 1)) if name == "relu" else np.zeros(6)
    np.testing.assert_allclose(measured["dead"], np.mean(silent), rtol=1e-6)
