"""Euclidean norms that are right over the whole range of the number format.

The sum of squares of float32 numbers is 0 for every norm below 1e-23 or so, and infinite above 1.8e19: exactly
where a vanishing or exploding gradient lives. The plain sum is used where it is trustworthy; elsewhere the array
is divided by its greatest magnitude first, as LAPACK's ``nrm2`` does.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def accumulator(dtype: jnp.dtype) -> jnp.dtype:
    """The format that statistics of ``dtype`` are summed in: float64 for float64, else float32."""
    return jnp.promote_types(dtype, jnp.float32)


def euclidean(x: Float[Array, "..."]) -> Float[Array, ""]:
    """The Euclidean norm of all elements, without overflow or underflow of their squares.

    Returns:
        The norm in float32 (float64 for float64 input); infinite or NaN where an element is.

    References:
        J. L. Blue, A Portable Fortran Program to Find the Euclidean Norm of a Vector, 1978.
    """
    return tree_euclidean(x)


def tree_euclidean(tree: Any, batch_axes: int = 0) -> Float[Array, "..."]:
    """``euclidean`` of all leaves of ``tree`` together, apart for each index of the leading ``batch_axes``."""
    leaves = jax.tree.leaves(tree)
    wide = jnp.result_type(jnp.float32, *leaves)
    leaves = [leaf.astype(wide) for leaf in leaves]
    squares = sum(jnp.sum(x * x, _inner(x, batch_axes)) for x in leaves)
    # Above this floor, elements whose squares underflow are too small to matter in the sum.
    floor = 2.0 ** (int(jnp.finfo(wide).minexp) // 2 - 7)
    trusted = jnp.all((squares > floor) & (squares < jnp.inf))
    return lax.cond(
        trusted, lambda _: jnp.sqrt(squares), lambda xs: _scaled(xs, batch_axes), leaves
    )


def _inner(x: Array, batch_axes: int) -> tuple[int, ...]:
    return tuple(range(batch_axes, x.ndim))


def _scaled(leaves: list[Array], batch_axes: int) -> Array:
    """The norm by division through the greatest magnitude: slower, right for every finite number."""
    peaks = [jnp.max(jnp.abs(x), _inner(x, batch_axes), initial=0) for x in leaves]
    greatest = functools.reduce(jnp.maximum, peaks)
    usable = (greatest > 0) & (greatest < jnp.inf)
    # The reciprocal of a number near either end of the range is no normal number: shift both towards 1 first.
    shift = 2.0 ** (jnp.finfo(greatest.dtype).maxexp // 2)
    factor = jnp.where(greatest > 1, 1 / shift, shift)
    divisor = jnp.where(usable, greatest * factor, 1)

    def spread(value, x):
        return jnp.expand_dims(value, _inner(x, batch_axes))

    ratios = [x * spread(factor, x) / spread(divisor, x) for x in leaves]
    norm = greatest * jnp.sqrt(sum(jnp.sum(x * x, _inner(x, batch_axes)) for x in ratios))
    return jnp.where(usable, norm, greatest)
