"""Values that pass through a narrower number format and stay in their own: 8-bit arithmetic on any
device.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from research.parallel import collectives as sharing


def nearest(x: Float[Array, "..."], format_: str) -> Float[Array, "..."]:
    """``x`` rounded to the nearest number of ``format_``, ties to even, subnormals kept.

    What lies beyond the greatest number is infinite or, in a format that has no infinity, NaN: as a
    conversion gives it. No conversion is used, since compilers take pairs of them away. ``x`` is
    float32 or wider.
    """
    info = jnp.finfo(format_)
    greatest = float(info.max)
    exponent = jnp.maximum(_exponent(x), int(info.minexp))
    unit = _power(exponent - info.nmant, x.dtype)
    rounded = jnp.round(x / unit) * unit
    beyond = jnp.where(rounded > 0, jnp.inf, -jnp.inf) if format_ == "float8_e5m2" else jnp.nan
    return jnp.where(
        jnp.abs(rounded) <= greatest, rounded, jnp.where(jnp.isnan(x), x, beyond)
    ).astype(x.dtype)


def _exponent(x: Array) -> Array:
    """⌊log₂|x|⌋ of normal numbers, from the bits; one below the least of all others."""
    info = jnp.finfo(x.dtype)
    bits = lax.bitcast_convert_type(x, f"uint{info.bits}")
    field = (bits >> info.nmant) & ((1 << info.nexp) - 1)
    return field.astype(jnp.int32) + (int(info.minexp) - 1)


def _power(exponent: Array, dtype: jnp.dtype) -> Array:
    """2^exponent, exactly, for normal numbers."""
    info = jnp.finfo(dtype)
    field = (exponent - (int(info.minexp) - 1)).astype(f"uint{info.bits}")
    return lax.bitcast_convert_type(field << info.nmant, dtype)


def _through(
    x: Array,
    format_: str,
    tensor_scale: bool,
) -> Array:
    """``nearest``, of all elements times the power of two that brings the greatest to the last
    octave but one.
    """
    if not tensor_scale:
        return nearest(x, format_)
    greatest = sharing.pmax(jnp.max(jnp.abs(x)))
    top = int(jnp.finfo(format_).maxexp) - 2
    usable = (greatest > 0) & jnp.isfinite(greatest)
    shift = _power(jnp.where(usable, top - jnp.clip(_exponent(greatest), -100, 100), 0), x.dtype)
    return nearest(x * shift, format_) / shift


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _rounded(
    x: Array,
    format_: str,
    tensor_scale: bool,
) -> Array:
    return _through(x, format_, tensor_scale)


_rounded.defvjp(
    lambda x, format_, tensor_scale: (_through(x, format_, tensor_scale), None),
    lambda format_, tensor_scale, _, cotangent: (_through(cotangent, format_, tensor_scale),),
)


def rounded(
    x: Float[Array, "..."],
    format_: str,
    tensor_scale: bool,
) -> Float[Array, "..."]:
    """``x`` rounded through ``format_`` on the way forward, its gradient on the way back; ``x``
    itself for no format.

    References:
        Micikevicius et al., FP8 formats for deep learning, 2022: the formats, and a scale for each
        tensor.
    """
    return _rounded(x, format_, tensor_scale) if format_ else x
