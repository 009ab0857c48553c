"""Euclidean norms that are right over the whole range of the number format.

The sum of squares of float32 numbers is 0 for every norm below about 1e-23, and infinite above
1.8e19. Norms of vanishing and exploding gradients are there. The plain sum is used where it is
trustworthy; elsewhere the array is divided by its largest magnitude first, as LAPACK's ``nrm2``
does. A GPU sums the squares in float64 instead: there a branch and a second pass take longer than
the arithmetic.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def accumulator(dtype: jnp.dtype) -> jnp.dtype:
    """The format in which statistics of ``dtype`` are summed: float64 for float64, else float32."""
    return jnp.promote_types(dtype, jnp.float32)


def euclidean(x: Float[Array, "..."], divisor: Array | float = 1.0) -> Float[Array, ""]:
    """The Euclidean norm of all elements, without overflow or underflow of their squares.

    Args:
        x: the elements.
        divisor: what the norm is divided by, before it can overflow.

    Returns:
        The norm in float32 (float64 for float64 input); infinite or NaN where an element is.

    References:
        J. L. Blue, A Portable Fortran Program to Find the Euclidean Norm of a Vector, 1978.
    """
    return tree_euclidean(x, divisor=divisor)


def tree_euclidean(
    tree: Any,
    batch_axes: int = 0,
    divisor: Array | float = 1.0,
) -> Float[Array, "..."]:
    """The Euclidean norm over all leaves of a tree.

    Args:
        tree: arrays; their first ``batch_axes`` axes are the same.
        batch_axes: how many leading axes the result has. Each index of them has its own norm.
        divisor: the norm is divided by this number before it can overflow.
    """
    if jax.default_backend() == "gpu":
        return tree_euclidean_in_double(tree, batch_axes, divisor)
    return tree_euclidean_by_branch(tree, batch_axes, divisor)


def tree_euclidean_in_double(
    tree: Any,
    batch_axes: int = 0,
    divisor: Array | float = 1.0,
) -> Float[Array, "..."]:
    """``tree_euclidean`` from a sum of squares in float64, whose range holds all of float32's.

    Leaves in float64 have no wider format and take a branch.

    Args:
        tree: as for ``tree_euclidean``.
        batch_axes: as for ``tree_euclidean``.
        divisor: as for ``tree_euclidean``.
    """
    leaves = _wide_leaves(tree)
    dtype = leaves[0].dtype
    if dtype == jnp.float64:
        return tree_euclidean_by_branch(leaves, batch_axes, divisor)
    with jax.enable_x64(True):
        doubles = [leaf.astype(jnp.float64) for leaf in leaves]
        norm = jnp.sqrt(_sum_of_squares(doubles, batch_axes))
        return (norm / divisor).astype(dtype)


def tree_euclidean_by_branch(
    tree: Any,
    batch_axes: int = 0,
    divisor: Array | float = 1.0,
) -> Float[Array, "..."]:
    """``tree_euclidean`` from the sum of squares, and from a scaled one only where it is needed.

    Args:
        tree: as for ``tree_euclidean``.
        batch_axes: as for ``tree_euclidean``.
        divisor: as for ``tree_euclidean``.
    """
    leaves = _wide_leaves(tree)
    squares = _sum_of_squares(leaves, batch_axes)
    floor = _floor(leaves[0].dtype)
    is_trustworthy = (squares > floor) & (squares < jnp.inf)

    def plain_norm(_: list[Array]) -> Array:
        return jnp.sqrt(squares) / divisor

    def scaled_norm(leaves: list[Array]) -> Array:
        return _scaled_norm(leaves, batch_axes, divisor)

    return lax.cond(jnp.all(is_trustworthy), plain_norm, scaled_norm, leaves)


def _wide_leaves(tree: Any) -> list[Array]:
    """The leaves in the widest of their formats, or in float32."""
    leaves = jax.tree.leaves(tree)
    dtype = jnp.result_type(jnp.float32, *leaves)
    return [leaf.astype(dtype) for leaf in leaves]


def _floor(dtype: jnp.dtype) -> float:
    """Above this sum, elements whose squares underflow are too small to matter in it."""
    smallest_exponent = int(jnp.finfo(dtype).minexp)
    return 2.0 ** (smallest_exponent // 2 - 7)


def nonzero_or_one(lengths: Float[Array, "..."]) -> Float[Array, "..."]:
    """Lengths to divide by: 1 where a length is 0 or NaN."""
    return jnp.where(lengths > 0, lengths, 1)


def _inner_axes(x: Array, batch_axes: int) -> tuple[int, ...]:
    """All axes except the leading ``batch_axes``."""
    return tuple(range(batch_axes, x.ndim))


def _sum_of_squares(leaves: list[Array], batch_axes: int) -> Array:
    total: Any = 0
    for x in leaves:
        axes = _inner_axes(x, batch_axes)
        total = total + jnp.sum(x * x, axes)
    return total


def _scaled_norm(
    leaves: list[Array],
    batch_axes: int,
    divisor: Array | float,
) -> Array:
    """The norm by division by the largest magnitude: slower, but right for every finite number."""
    magnitudes = []
    for x in leaves:
        axes = _inner_axes(x, batch_axes)
        magnitude = jnp.max(jnp.abs(x), axes, initial=0)
        magnitudes.append(magnitude)
    largest = functools.reduce(jnp.maximum, magnitudes)
    is_usable = (largest > 0) & (largest < jnp.inf)
    # The reciprocal of a number near either end of the range is no normal number, so both are
    # shifted towards 1 first.
    largest_exponent = jnp.finfo(largest.dtype).maxexp
    shift = 2.0 ** (largest_exponent // 2)
    factor = jnp.where(largest > 1, 1 / shift, shift)
    unit = jnp.where(is_usable, largest * factor, 1)

    def divide(x: Array) -> Array:
        axes = _inner_axes(x, batch_axes)
        shifted = x * jnp.expand_dims(factor, axes)
        return shifted / jnp.expand_dims(unit, axes)

    ratios = [divide(x) for x in leaves]
    length = jnp.sqrt(_sum_of_squares(ratios, batch_axes))
    norm = largest * length
    quotient_of_large = largest * (length / divisor)
    quotient = jnp.where(norm < jnp.inf, norm / divisor, quotient_of_large)
    return jnp.where(is_usable, quotient, largest)
