"""Rounds values through E2M1, the 4-bit format, in blocks that share a scale.

The dtype of an array does not change. Each block of neighbouring elements is divided by its scale,
rounded to one of 0, ±0.5, ±1, ±1.5, ±2, ±3, ±4, ±6, and multiplied by the scale again:

- ``mx``: blocks of 32 and a scale that is a power of two.
- ``nv``: blocks of 16 and a scale in float8_e4m3, times a float32 scale of the whole array that
  brings the greatest scale of a block to the top of that format.

Scales are rounded up, so that no element exceeds the format and stochastic rounding is unbiased.

References:
    Rouhani et al., Microscaling data formats for deep learning, 2023. NVIDIA, Pretraining large
    language models with NVFP4, 2025. Chmiel et al., FP4 all the way: fully quantized training of
    LLMs, 2025: nearest in the forward pass, stochastic in the backward pass.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.config.options import BlockScale
from research.models.architecture import Architecture
from research.models.rounding import exponent_of, power_of_two, round_to_nearest, spacing_of
from research.models.units import pad_units
from research.parallel.collectives import pmax, sample_then_shard

FORMAT = "float4_e2m1fn"
LARGEST = 6.0
BLOCK_SIZES = {BlockScale.mx: 32, BlockScale.nv: 16}
SCALE_FORMAT = "float8_e4m3fn"
LARGEST_SCALE = 448.0
WEIGHTS = {"kernel", "recurrent", "input"}  # the names of matrices and convolutions
SMALLEST_NORMAL = 2.0**-126  # of float32, in which scales of arrays are computed


def round_in_blocks(
    x: Float[Array, "... D"],
    block_scale: BlockScale,
    key: Array | None = None,
) -> Float[Array, "... D"]:
    """Rounds through E2M1 in blocks along the last axis, whose end is padded with zeros.

    Args:
        x: values in float32 or wider.
        block_scale: the size of the blocks, and the format of their scales.
        key: random key for stochastic rounding; None for rounding to nearest, ties to even.
    """
    *leading_axes, length = x.shape
    size = BLOCK_SIZES[block_scale]
    padded = pad_units(x, -length % size)
    blocks = padded.reshape(*leading_axes, -1, size)
    scales = block_scales(blocks, block_scale)
    scaled = blocks / scales
    if key is None:
        rounded = round_to_nearest(scaled, FORMAT)
    else:
        rounded = _round_stochastically(scaled, key)
    padded = (rounded * scales).reshape(*leading_axes, -1)
    return padded[..., :length]


def block_scales(blocks: Float[Array, "... K S"], block_scale: BlockScale) -> Array:
    """The scale of each block, [..., K, 1]; 1 for a block that is zero or not finite.

    Args:
        blocks: K blocks of S elements each.
        block_scale: the format of the scales.
    """
    largest = jnp.max(jnp.abs(blocks), axis=-1, keepdims=True)
    exact = largest / LARGEST
    match block_scale:
        case BlockScale.mx:
            scales = _round_up_to_power_of_two(exact)
        case _:
            whole = pmax(jnp.max(exact)) / LARGEST_SCALE
            whole = jnp.maximum(whole, SMALLEST_NORMAL)
            scales = whole * _round_up(exact / whole, SCALE_FORMAT)
    is_usable = (largest > 0) & jnp.isfinite(largest)
    return jnp.where(is_usable, scales, jnp.ones_like(scales))


def _round_up_to_power_of_two(x: Array) -> Array:
    exponent = jnp.clip(exponent_of(x), -126, 126)
    lower = power_of_two(exponent, x.dtype)
    return jnp.where(lower < x, 2 * lower, lower)


def _round_up(x: Array, number_format: str) -> Array:
    """The next number of a format that is not below x, of positive x within its range."""
    spacing = spacing_of(x, number_format)
    return jnp.ceil(x / spacing) * spacing


def _round_stochastically(x: Array, key: Array) -> Array:
    """Rounds to one of the two nearest numbers of E2M1, so that the expected value is x."""
    size = jnp.abs(x)
    spacing = spacing_of(x, FORMAT)
    noise = sample_then_shard(partial(_uniform, key, x.dtype), x.shape)
    steps = jnp.floor(size / spacing + noise)
    rounded_size = jnp.minimum(steps * spacing, LARGEST)
    rounded = jnp.sign(x) * rounded_size
    return jnp.where(jnp.isfinite(x), rounded, jnp.nan)


def _uniform(
    key: Array,
    dtype: Any,
    shape: tuple[int, ...],
) -> Array:
    return jax.random.uniform(key, shape, dtype)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def round_value_and_gradient(
    x: Float[Array, "... D"],
    block_scale: BlockScale,
    key: Array | None,
) -> Float[Array, "... D"]:
    """Rounds values to nearest in the forward pass, and their gradient in the backward pass.

    Args:
        x: values in float32 or wider.
        block_scale: the size of the blocks, and the format of their scales.
        key: random key for stochastic rounding of the gradient; None for rounding to nearest.
    """
    del key
    return round_in_blocks(x, block_scale)


def _forward(
    x: Array,
    block_scale: BlockScale,
    key: Array | None,
) -> tuple[Array, Array | None]:
    return round_in_blocks(x, block_scale), key


def _backward(
    block_scale: BlockScale,
    key: Array | None,
    cotangent: Array,
) -> tuple[Array, None]:
    return round_in_blocks(cotangent, block_scale, key), None


round_value_and_gradient.defvjp(_forward, _backward)


def round_kernels(params: Any, block_scale: BlockScale) -> Any:
    """The parameters of a layer with the weights of its branch rounded to nearest.

    Blocks lie along the inputs of a weight. Gradients pass as if nothing were rounded.

    Args:
        params: the parameters of one layer, a tree of dictionaries.
        block_scale: the size of the blocks, and the format of their scales.
    """

    def round_kernel(path: tuple, leaf: Array) -> Array:
        names = [getattr(key, "key", None) for key in path]
        if "branch" not in names or not WEIGHTS.intersection(names):
            return leaf
        inputs_last = jnp.swapaxes(leaf, -1, -2)
        rounded = jnp.swapaxes(round_in_blocks(inputs_last, block_scale), -1, -2)
        return leaf + jax.lax.stop_gradient(rounded - leaf)

    return jax.tree_util.tree_map_with_path(round_kernel, params)


def round_weights(arch: Architecture, params: Any) -> Any:
    """The parameters of one layer as it uses them: rounded, where the run rounds weights.

    Args:
        arch: the network.
        params: the parameters of one layer.
    """
    if not (arch.block_scale and arch.rounds_weights):
        return params
    return round_kernels(params, arch.block_scale)
