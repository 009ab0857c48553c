"""Rounding through the 4-bit format in blocks: the numbers, the scales, and unbiased gradients."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from research.config.options import BlockScale
from research.models import block_rounding
from research.models.block_rounding import (
    BLOCK_SIZES,
    FORMAT,
    block_scales,
    round_kernels,
    round_value_and_gradient,
)
from research.models.rounding import round_to_nearest

from ..compiling import quick
from .networks import normal

E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
round_in_blocks = quick(block_rounding.round_in_blocks, static_argnums=1)
every_scale = pytest.mark.parametrize("block_scale", BlockScale, ids=lambda each: each.name)


def draw(shape, seed=0):
    return normal(shape, seed).astype(np.float32)


def through(number_format, x):
    """What is left of numbers in a narrow format."""
    return x.astype(number_format).astype(np.float32)


def test_the_numbers_of_the_format_are_those_of_ml_dtypes():
    x = np.linspace(-6, 6, 1201).astype(np.float32)
    measured = np.asarray(round_to_nearest(jnp.asarray(x), FORMAT))
    assert_array_equal(measured, through(ml_dtypes.float4_e2m1fn, x))
    sizes = set(np.abs(measured).tolist())
    assert sorted(sizes) == E2M1


@every_scale
def test_every_element_is_a_number_of_the_format_times_the_scale_of_its_block(block_scale):
    size = BLOCK_SIZES[block_scale]
    row_scales = 10.0 ** np.linspace(-6, 6, 3)
    x = jnp.asarray(draw((3, 4 * size)) * row_scales[:, None], jnp.float32)
    blocks = x.reshape(3, 4, size)
    scales = np.asarray(block_scales(blocks, block_scale))
    for key in (None, jax.random.key(0)):
        rounded = round_in_blocks(x, block_scale, key).reshape(blocks.shape)
        multiples = np.abs(np.asarray(rounded) / scales)
        distances = np.abs(multiples[..., None] - np.array(E2M1))
        to_nearest = distances.min(axis=-1)
        assert to_nearest.max() < 1e-5
    largest = np.abs(np.asarray(blocks)).max(axis=-1, keepdims=True)
    assert np.all(largest <= 6 * scales * (1 + 1e-6))


def test_mx_scales_are_powers_of_two_and_nv_scales_fit_into_8_bits():
    x = jnp.asarray(draw((64, 32)))
    mx = np.asarray(block_scales(x[:, None], BlockScale.mx))
    mantissas, _ = np.frexp(mx)
    assert_array_equal(mantissas, np.full_like(mx, 0.5))
    nv = np.asarray(block_scales(x.reshape(64, 2, 16), BlockScale.nv))
    relative = nv * 448 / nv.max()
    assert_allclose(through(ml_dtypes.float8_e4m3fn, relative), relative, rtol=1e-6)


@every_scale
def test_stochastic_rounding_is_unbiased_and_goes_to_a_neighbour(block_scale):
    """The mean of K draws differs by about the noise over √K."""
    x = jnp.asarray(draw((2, 33)))
    keys = jax.random.split(jax.random.key(0), 4000)
    rounded = jax.vmap(lambda key: round_in_blocks(x, block_scale, key))(keys)
    rounded = np.asarray(rounded, np.float64)
    deviation = rounded.std(axis=0)
    noise_of_mean = deviation / np.sqrt(len(keys))
    error = np.abs(rounded.mean(axis=0) - np.asarray(x))
    assert np.all(error <= 5 * noise_of_mean + 1e-6)
    for draws in rounded.reshape(len(keys), -1).T:
        assert len(np.unique(draws)) <= 2
    assert deviation.max() > 0.01


@every_scale
def test_zeros_stay_zero_and_what_is_not_finite_stays_visible(block_scale):
    zeros = jnp.zeros((2, 40))
    broken = zeros.at[0, 3].set(jnp.inf)
    for key in (None, jax.random.key(0)):
        assert_array_equal(round_in_blocks(zeros, block_scale, key), zeros)
        assert not np.all(np.isfinite(round_in_blocks(broken, block_scale, key)))


@every_scale
def test_values_are_rounded_to_nearest_and_gradients_by_the_key(block_scale):
    x = jnp.asarray(draw((4, 16)))
    cotangent = jnp.asarray(draw((4, 16), seed=1))
    key = jax.random.key(3)

    def rounded(x):
        return round_value_and_gradient(x, block_scale, key)

    y, pull_back = jax.vjp(rounded, x)
    (gradient,) = pull_back(cotangent)
    # As it is, since a compiled division may differ in its last bit.
    assert_array_equal(y, block_rounding.round_in_blocks(x, block_scale))
    expected = block_rounding.round_in_blocks(cotangent, block_scale, key)
    assert_array_equal(gradient, expected)


def test_weights_are_rounded_along_their_inputs_and_the_gradient_passes():
    kernel = jnp.asarray(draw((16, 3)))
    params = {"branch": {"weights": {"kernel": kernel, "bias": kernel[0]}}}

    def total(params):
        rounded = round_kernels(params, BlockScale.nv)["branch"]["weights"]
        return jnp.sum(rounded["kernel"] ** 2), rounded

    gradient, rounded = jax.grad(total, has_aux=True)(params)
    expected = round_in_blocks(kernel.T, BlockScale.nv).T
    assert_allclose(rounded["kernel"], expected, rtol=1e-6)
    assert_array_equal(rounded["bias"], kernel[0])
    assert_allclose(gradient["branch"]["weights"]["kernel"], 2 * expected, rtol=1e-6)
