"""How updated parameters are rounded to the format in which they are stored."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, BFloat16, Float32


def round_stochastically(x: Float32[Array, "..."], key: Array) -> BFloat16[Array, "..."]:
    """Rounds to one of the two nearest bfloat16 numbers, so that the expected value is x.

    The formats have the same sign and exponent bits, so the 16 bits that bfloat16 lacks are the
    distance from the lower neighbour. Adding a random 16-bit number carries into the upper bits
    with the right probability. Infinities and NaN stay.

    References:
        Gupta et al., Deep learning with limited numerical precision, 2015, §3.1. Zamirai et al.,
        Revisiting bfloat16 training, 2020.
    """
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16)
    noisy_bits = bits + noise.astype(jnp.uint32)
    bits = jnp.where(jnp.isfinite(x), noisy_bits, bits)
    upper_bits = (bits >> 16).astype(jnp.uint16)
    return lax.bitcast_convert_type(upper_bits, jnp.bfloat16)


def cast_params(
    params: Any,
    like: Any,
    key: Array | None,
) -> Any:
    """Casts updated parameters to the formats in which they are stored.

    Args:
        params: the updated parameters, in float32 or wider.
        like: parameters in the formats to cast to.
        key: random key for stochastic rounding to bfloat16; None for rounding to nearest.
    """
    if key is None:
        return jax.tree.map(_cast, params, like)
    leaves, structure = jax.tree.flatten(params)
    rounded = []
    for number, leaf in enumerate(leaves):
        leaf_key = jax.random.fold_in(key, number)
        rounded.append(round_stochastically(leaf, leaf_key))
    return jax.tree.unflatten(structure, rounded)


def _cast(leaf: Array, like: Array) -> Array:
    return leaf.astype(like.dtype)
