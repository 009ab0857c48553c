"""Gauges of a layer's parameters, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from research.config.options import Level
from research.gauges.layers import layer_norms, weight_and_update_norms
from research.gauges.table import Site, measure_at


@pytest.fixture
def make_stack():
    """Random parameters of layers, stacked on the leading axis."""
    generator = np.random.default_rng(0)

    def make(layers, size=1.0, dtype=jnp.float32):
        def draw(*shape):
            values = size * generator.standard_normal((layers, *shape))
            return jnp.asarray(values, dtype)

        return {"kernel": draw(4, 4), "bias": draw(4), "alpha": draw()}

    return make


def norms_with_numpy(stack):
    """The norm of each layer of a stack, in float64."""
    rows = []
    for leaf in stack.values():
        wide = np.asarray(leaf, np.float64)
        rows.append(wide.reshape(len(wide), -1))
    return np.linalg.norm(np.concatenate(rows, axis=1), axis=1)


def norms_of_stages(stages):
    """The norm of each layer, for stages whose blocks have one layer."""
    norms = []
    for (stack,) in stages:
        norms.append(norms_with_numpy(stack))
    return np.concatenate(norms)


def update_gauges(before, after):
    weights, updates = weight_and_update_norms(before, after)
    return measure_at(Site.UPDATE, Level.full, weights, updates)


def subtract_in_float64(a, b):
    return np.asarray(a, np.float64) - np.asarray(b, np.float64)


@pytest.mark.parametrize(
    "sizes",
    [
        (1.0,),
        (1e25, 1.0, 1e-25),
    ],
)
def test_layers_are_numbered_through_all_stages(sizes, make_stack):
    stages = []
    for n, size in enumerate(sizes):
        stages.append([make_stack(n + 1, size)])
    assert_allclose(layer_norms(stages), norms_of_stages(stages), rtol=1e-6)


def test_the_layers_of_a_block_follow_each_other(make_stack):
    first = make_stack(3, 1.0)
    second = make_stack(3, 10.0)
    by_block = np.stack([norms_with_numpy(first), norms_with_numpy(second)], axis=1)
    assert_allclose(layer_norms([[first, second]]), by_block.ravel(), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_update_gauges_compare_what_is_stored(dtype, make_stack):
    before = [[make_stack(3, dtype=dtype)], [make_stack(2, dtype=dtype)]]
    after = jax.tree.map(lambda leaf: (leaf * 1.01).astype(dtype), before)
    gauges = jax.jit(update_gauges)(before, after)
    change = jax.tree.map(subtract_in_float64, after, before)
    weight = norms_of_stages(before)
    update = norms_of_stages(change)
    assert_allclose(gauges["weight_norm"], weight, rtol=1e-6)
    assert_allclose(gauges["update_norm"], update, rtol=1e-5)
    assert_allclose(gauges["update_ratio"], update / weight, rtol=1e-5)


def test_what_the_format_rounds_away_is_no_update():
    kernel = jnp.ones((2, 8), jnp.bfloat16)
    before = {"kernel": kernel}
    after = {"kernel": kernel + jnp.bfloat16(1e-4)}
    gauges = update_gauges([[before]], [[after]])
    assert_array_equal(gauges["update_norm"], 0)


def test_the_ratio_to_weights_of_zero_is_nan():
    before = jnp.asarray([[0.0] * 4, [1.0] * 4])
    after = jnp.ones((2, 4))
    gauges = update_gauges([[before]], [[after]])
    assert_array_equal(gauges["update_ratio"], [np.nan, 0])


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_ratio_is_right_where_squares_leave_the_format(size):
    before = jnp.full((2, 4), size)
    after = before * 1.5
    gauges = update_gauges([[before]], [[after]])
    assert_allclose(gauges["update_ratio"], 0.5, rtol=1e-6)
