"""Nonlinearities against their formulas; their slopes; saturated elements and dead units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from research.config.options import ActivationKind
from research.gauges import table
from research.models.activation import (
    ACTIVATIONS,
    Nonlinearity,
    SwitchedNonlinearity,
    unit_statistics,
)
from research.training.precision import precision_context

from .. import oracle
from .networks import central_difference

every_activation = pytest.mark.parametrize("name", [kind.name for kind in ActivationKind])
Z = np.linspace(-7, 7, 1000)  # without 0, where rectifiers have no slope


@every_activation
def test_value_and_slope(name):
    formula = oracle.ACTIVATIONS[name]
    with precision_context("float64"):
        z = jnp.asarray(Z)
        value = ACTIVATIONS[name](z)
        slope = Nonlinearity(name).slope(z)
        expected_value = formula(Z)
        expected_slope = central_difference(formula, Z)
    assert_allclose(value, expected_value, rtol=1e-12, atol=1e-13)
    assert_allclose(slope, expected_slope, atol=1e-9)


def test_the_slope_of_a_chosen_nonlinearity_has_a_derivative_where_the_choice_is_traced():
    def derivatives(choice):
        chosen = SwitchedNonlinearity(["sigmoid", "tanh"], choice)

        def value(z):
            return jnp.sum(chosen(z))

        return jax.jvp(jax.grad(value), (z,), (jnp.ones_like(z),))

    z = jnp.linspace(-3, 3, 7)
    slope, curvature = jax.jit(derivatives)(jnp.int32(1))

    tanh = np.tanh(np.asarray(z))
    assert_allclose(slope, 1 - tanh**2, rtol=1e-5)
    assert_allclose(curvature, -2 * tanh * (1 - tanh**2), rtol=1e-5, atol=1e-7)


@every_activation
def test_greatest_slope(name):
    fine_grid = np.linspace(-6, 6, 10**5)
    with precision_context("float64"):
        slopes = central_difference(oracle.ACTIVATIONS[name], fine_grid)
    expected = np.max(np.abs(slopes))
    assert_allclose(Nonlinearity(name).greatest_slope(), expected, rtol=3e-4)


@every_activation
def test_float16_is_kept_and_never_overflows(name):
    z = jnp.asarray([-6e4, -100, -1, 0, 1, 100, 6e4], jnp.float16)
    out = ACTIVATIONS[name](z)
    assert out.dtype == z.dtype
    assert np.all(np.isfinite(out))
    assert np.all(np.isfinite(Nonlinearity(name).slope(z)))


def test_dead_units_are_zero_on_the_whole_batch():
    z = jnp.asarray([[-1.0, -1.0, 1.0, 0.0], [-2.0, 1.0, 2.0, -1.0]])
    statistics = unit_statistics(Nonlinearity("relu"), z)
    assert statistics["dead"] == 2 / 4  # the first and the last unit
    assert statistics["saturated"] == 5 / 8  # elements without a slope
    assert unit_statistics(Nonlinearity("tanh"), z)["dead"] == 0


def saturated(name, z):
    return unit_statistics(Nonlinearity(name), z)["saturated"]


def test_saturated_elements_lie_where_the_slope_is_flat(monkeypatch):
    """1 − tanh² < 0.05 beyond |z| = 2.1783; a sigmoid is as flat at twice that."""
    z = jnp.asarray([[-3.0, -2.2, -2.1, 0.0], [2.1, 2.2, 3.0, 1.0]])
    assert saturated("tanh", z) == 4 / 8
    assert saturated("sigmoid", 2 * z) == 4 / 8
    assert saturated("linear", z) == 0
    monkeypatch.setattr(table, "FLAT", 0.999)
    assert saturated("tanh", z) == 7 / 8


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "relu"])
def test_statistics_with_a_time_axis(name):
    generator = np.random.default_rng(0)
    z = 3 * generator.standard_normal((2, 3, 6)) - 2 * np.arange(6)
    with precision_context("float64"):
        slopes = {
            "relu": (z > 0).astype(float),
            "tanh": np.abs(central_difference(oracle.tanh, z)),
            "sigmoid": np.abs(central_difference(oracle.sigmoid, z)),
        }
    greatest_slope = {
        "relu": 1,
        "tanh": 1,
        "sigmoid": 0.25,
    }
    is_dead = np.all(z <= 0, axis=(0, 1)) if name == "relu" else np.zeros(6)

    statistics = unit_statistics(Nonlinearity(name), jnp.asarray(z, jnp.float32))

    is_flat = slopes[name] < 0.05 * greatest_slope[name]
    assert_allclose(statistics["saturated"], np.mean(is_flat), rtol=1e-6)
    assert_allclose(statistics["dead"], np.mean(is_dead), rtol=1e-6)
