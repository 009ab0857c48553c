"""Rounds values through a narrower number format: 8-bit arithmetic on any device.

The dtype of an array does not change; only precision and range are those of the narrower format.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from research.parallel.collectives import pmax


def round_to_nearest(x: Float[Array, "..."], number_format: str) -> Float[Array, "..."]:
    """Rounds to the nearest number of a format, ties to even; subnormal numbers are kept.

    A value beyond the largest finite number becomes infinite or, where the format has no infinity,
    NaN, as in a conversion. The function does not convert, because compilers remove a pair of
    conversions.

    Args:
        x: values in float32 or wider.
        number_format: a format that is narrower than that of ``x``.
    """
    largest = float(jnp.finfo(number_format).max)
    spacing = spacing_of(x, number_format)
    rounded = jnp.round(x / spacing) * spacing
    overflow: Array | float = jnp.nan
    if number_format == "float8_e5m2":  # the format that has an infinity
        overflow = jnp.where(rounded > 0, jnp.inf, -jnp.inf)
    is_in_range = jnp.abs(rounded) <= largest
    out_of_range = jnp.where(jnp.isnan(x), x, overflow)
    return jnp.where(is_in_range, rounded, out_of_range).astype(x.dtype)


def spacing_of(x: Float[Array, "..."], number_format: str) -> Float[Array, "..."]:
    """The distance between the numbers of a format around each value.

    Args:
        x: values in float32 or wider.
        number_format: a format that is narrower than that of ``x``.
    """
    info = jnp.finfo(number_format)
    exponent = jnp.maximum(exponent_of(x), int(info.minexp))
    return power_of_two(exponent - info.nmant, x.dtype)


def exponent_of(x: Float[Array, "..."]) -> Int[Array, "..."]:
    """⌊log₂|x|⌋ of normal numbers, read from the bits.

    For zero and subnormal numbers, one less than the smallest exponent of a normal number.
    """
    info = jnp.finfo(x.dtype)
    bits = lax.bitcast_convert_type(x, f"uint{info.bits}")
    exponent_mask = (1 << info.nexp) - 1
    biased = (bits >> info.nmant) & exponent_mask
    lowest = int(info.minexp) - 1
    return biased.astype(jnp.int32) + lowest


def power_of_two(exponent: Int[Array, "..."], dtype: jnp.dtype) -> Float[Array, "..."]:
    """2^exponent, exact for the exponents of normal numbers."""
    info = jnp.finfo(dtype)
    lowest = int(info.minexp) - 1
    biased = exponent - lowest
    bits = biased.astype(f"uint{info.bits}") << info.nmant
    return lax.bitcast_convert_type(bits, dtype)


def _round_through(
    x: Array,
    number_format: str,
    tensor_scale: bool,
) -> Array:
    """Rounds to the nearest numbers of the format.

    With ``tensor_scale`` the values are multiplied by a power of two before rounding and divided by
    it afterwards. It brings the largest magnitude to the last octave but one of the format's range.
    """
    if not tensor_scale:
        return round_to_nearest(x, number_format)
    largest = pmax(jnp.max(jnp.abs(x)))
    top = int(jnp.finfo(number_format).maxexp) - 2
    is_usable = (largest > 0) & jnp.isfinite(largest)
    exponent = jnp.clip(exponent_of(largest), -100, 100)
    shift = jnp.where(is_usable, top - exponent, 0)
    scale = power_of_two(shift, x.dtype)
    return round_to_nearest(x * scale, number_format) / scale


_round_value_and_gradient = jax.custom_vjp(_round_through, nondiff_argnums=(1, 2))


def _forward(
    x: Array,
    number_format: str,
    tensor_scale: bool,
) -> tuple[Array, None]:
    return _round_through(x, number_format, tensor_scale), None


def _backward(
    number_format: str,
    tensor_scale: bool,
    residuals: None,
    cotangent: Array,
) -> tuple[Array]:
    del residuals
    return (_round_through(cotangent, number_format, tensor_scale),)


_round_value_and_gradient.defvjp(_forward, _backward)


def round_through_format(
    x: Float[Array, "..."],
    number_format: str,
    tensor_scale: bool,
) -> Float[Array, "..."]:
    """Rounds values in the forward pass, and their gradient in the backward pass.

    Args:
        x: values in float32 or wider.
        number_format: the format to round through; with an empty name, ``x`` is returned unchanged.
        tensor_scale: whether the values of an array are shifted to the top of the format's range
            before rounding.

    References:
        Micikevicius et al., FP8 formats for deep learning, 2022: the formats, and a scale for each
        tensor.
    """
    if not number_format:
        return x
    return _round_value_and_gradient(x, number_format, tensor_scale)
