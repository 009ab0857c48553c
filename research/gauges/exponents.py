"""How many elements have which exponent, from their bits: exact whatever the backend flushes to zero."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from research.theory.formats import BINS, HIGHEST, LOWEST


def exponent_counts(tree: Any, batch_axes: int = 0) -> Float[Array, "... bins"]:
    """How many elements of all leaves have each exponent from ``LOWEST`` to ``HIGHEST``, are zero, are not finite.

    The exponent is ⌊log₂|x|⌋, of subnormal numbers too. Apart for each index of the leading ``batch_axes`` (0 or 1).
    Exponents outside the range, which float64 alone has, count at its ends. Whole numbers up to 2²⁴ are exact.
    """
    count = jax.vmap(_counts) if batch_axes else _counts
    return functools.reduce(jnp.add, map(count, jax.tree.leaves(tree)))


def _counts(x: Array) -> Array:
    return jnp.zeros(BINS + 2, jnp.int32).at[_places(x).reshape(-1)].add(1).astype(jnp.float32)


def _places(x: Array) -> Int[Array, "..."]:
    """Where each element is counted: no operation on floating-point numbers, which takes subnormal ones for zeros.

    The barrier keeps the compiler from finding such an operation in the integers.
    """
    info = jnp.finfo(x.dtype)
    bits = lax.optimization_barrier(lax.bitcast_convert_type(x, f"uint{info.bits}"))
    fraction = bits & ((1 << info.nmant) - 1)
    field = ((bits >> info.nmant) & ((1 << info.nexp) - 1)).astype(jnp.int32)
    leading = info.bits - 1 - lax.clz(fraction).astype(jnp.int32)
    exponent = jnp.where(field == 0, leading - info.nmant, field - 1) + int(info.minexp)
    place = jnp.clip(exponent, LOWEST, HIGHEST) - LOWEST
    place = jnp.where(field == (1 << info.nexp) - 1, BINS + 1, place)
    return jnp.where((field == 0) & (fraction == 0), BINS, place)
