"""How updated weights are rounded to the format they are stored in."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, BFloat16, Float32


def round_stochastically(x: Float32[Array, "..."], key: Array) -> BFloat16[Array, "..."]:
    """Rounds to one of the two nearest bfloat16 numbers, up with the probability that keeps the
    mean.

    Both formats share sign and exponent, so the 16 bits that are cut off are the distance to the
    lower neighbour: a random number below 2¹⁶ is added to them. What is not finite stays what it
    is.

    References:
        Gupta et al., Deep learning with limited numerical precision, 2015, §3.1. Zamirai et al.,
        Revisiting bfloat16 training, 2020.
    """
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    bits = jnp.where(jnp.isfinite(x), bits + noise, bits)
    return lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)


def cast_params(
    wide: Any,
    like: Any,
    key: Array | None,
) -> Any:
    """The tree ``wide`` in the formats of ``like``: rounded to nearest or, with a ``key``,
    stochastically.
    """
    if key is None:
        return jax.tree.map(lambda new, old: new.astype(old.dtype), wide, like)
    leaves, form = jax.tree.flatten(wide)
    rounded = [
        round_stochastically(leaf, jax.random.fold_in(key, n)) for n, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(form, rounded)
