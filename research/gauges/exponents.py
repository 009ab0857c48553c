"""Counts the exponents of floating-point numbers from their bits.

The counts are exact, even on a backend that flushes subnormal numbers to zero.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from research.theory.formats import BINS, HIGHEST, LOWEST


def exponent_counts(tree: Any, batch_axes: int = 0) -> Float[Array, "... bins"]:
    """Counts the elements of all leaves by exponent.

    The exponent is ⌊log₂|x|⌋, also for subnormal numbers. Exponents outside the range, which only
    float64 has, count at its ends. Counts up to 2²⁴ are exact.

    Args:
        tree: floating-point arrays.
        batch_axes: 0 or 1; with 1, each index of the leading axis is counted separately.

    Returns:
        The number of elements for each exponent from ``LOWEST`` to ``HIGHEST``, then of zeros, then
        of non-finite elements: [BINS + 2], or [L, BINS + 2] with a batch axis.
    """
    count = jax.vmap(_counts) if batch_axes else _counts
    first, *others = jax.tree.leaves(tree)
    total = count(first)
    for leaf in others:
        total = total + count(leaf)
    return total


def _counts(x: Array) -> Array:
    counts = jnp.zeros(BINS + 2, jnp.int32)
    bins = _bin_of(x).reshape(-1)
    counts = counts.at[bins].add(1)
    return counts.astype(jnp.float32)


def _bin_of(x: Array) -> Int[Array, "..."]:
    """The index at which each element is counted.

    It is computed from integers only, because a floating-point operation may take subnormal numbers
    for zeros. The barrier keeps the compiler from turning the integer operations into such an
    operation.
    """
    info = jnp.finfo(x.dtype)
    bits = lax.bitcast_convert_type(x, f"uint{info.bits}")
    bits = lax.optimization_barrier(bits)
    mantissa_mask = (1 << info.nmant) - 1
    exponent_mask = (1 << info.nexp) - 1
    mantissa = bits & mantissa_mask
    field = (bits >> info.nmant) & exponent_mask
    field = field.astype(jnp.int32)

    leading_zeros = lax.clz(mantissa).astype(jnp.int32)
    highest_bit = info.bits - 1 - leading_zeros
    is_subnormal = field == 0  # or zero
    subnormal_exponent = highest_bit - info.nmant
    exponent = jnp.where(is_subnormal, subnormal_exponent, field - 1)
    exponent = exponent + int(info.minexp)
    index = jnp.clip(exponent, LOWEST, HIGHEST) - LOWEST
    index = jnp.where(field == exponent_mask, BINS + 1, index)
    is_zero = is_subnormal & (mantissa == 0)
    return jnp.where(is_zero, BINS, index)
