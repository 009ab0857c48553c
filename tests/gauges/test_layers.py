"""Gauges of a layer's parameters, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.gauges.layers import layer_norms, update_gauges

GENERATOR = np.random.default_rng(0)


def stage(layers, size=1.0, dtype=jnp.float32):
    def draw(*shape):
        return jnp.asarray(size * GENERATOR.standard_normal((layers, *shape)), dtype)

    return {"kernel": draw(4, 4), "bias": draw(4), "alpha": draw()}


def by_layer(stage):
    wide = [np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in stage.values()]
    return np.linalg.norm(np.concatenate(wide, axis=1), axis=1)


@pytest.mark.parametrize("sizes", [(1.0,), (1e25, 1.0, 1e-25)])
def test_layers_are_numbered_through_all_stages(sizes):
    stages = [stage(n + 1, size) for n, size in enumerate(sizes)]
    np.testing.assert_allclose(
        layer_norms([[s] for s in stages]), np.concatenate([by_layer(s) for s in stages]), rtol=1e-6
    )


def test_the_layers_of_a_block_are_numbered_in_turn():
    stacks = [stage(3, 1.0), stage(3, 10.0)]
    expected = np.stack([by_layer(stack) for stack in stacks], axis=1).ravel()
    np.testing.assert_allclose(layer_norms([stacks]), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_update_gauges_compare_what_is_stored(dtype):
    before = [stage(3, dtype=dtype), stage(2, dtype=dtype)]
    after = [jax.tree.map(lambda leaf: (leaf * 1.01).astype(dtype), s) for s in before]
    gauges = jax.jit(update_gauges)(*([[s] for s in stages] for stages in (before, after)))
    change = [
        jax.tree.map(lambda x, y: np.asarray(x, np.float64) - np.asarray(y, np.float64), a, b)
        for a, b in zip(after, before, strict=True)
    ]
    weight, update = (np.concatenate([by_layer(s) for s in stages]) for stages in (before, change))
    np.testing.assert_allclose(gauges["weight_norm"], weight, rtol=1e-6)
    np.testing.assert_allclose(gauges["update_norm"], update, rtol=1e-5)
    np.testing.assert_allclose(gauges["update_ratio"], update / weight, rtol=1e-5)


def test_what_the_format_swallows_is_no_update():
    before = {"kernel": jnp.ones((2, 8), jnp.bfloat16)}
    after = {"kernel": before["kernel"] + jnp.bfloat16(1e-4)}
    np.testing.assert_array_equal(update_gauges([[before]], [[after]])["update_norm"], 0)


def test_the_ratio_to_weights_of_zero_is_no_number():
    zeros = jnp.zeros((1, 4))
    ones = jnp.ones((1, 4))
    gauges = update_gauges([[jnp.concatenate([zeros, ones])]], [[jnp.concatenate([ones, ones])]])
    np.testing.assert_array_equal(gauges["update_ratio"], [np.nan, 0])


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_ratio_is_right_where_squares_leave_the_format(size):
    before = jnp.full((2, 4), size)
    gauges = update_gauges([[before]], [[before * 1.5]])
    np.testing.assert_allclose(gauges["update_ratio"], 0.5, rtol=1e-6)
