"""Slots: what is measured at a mark leaves the program as the gradient of a zero input.

The statistics are sums, so they add up over repeated calls, microbatches, vmap and devices. A sum
of squares of float32 numbers covers too few magnitudes. So each array's norm is computed first, and
its square is added to one of three sums, scaled by a power of two: one for small, one for ordinary
and one for large norms.

References:
    J. L. Blue, A Portable Fortran Program to Find the Euclidean Norm of a Vector, 1978.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from research.gauges.norms import accumulator, tree_euclidean_by_branch, tree_euclidean_in_double

NUM_BANDS = 3
BACKWARD = slice(0, 3)  # the squared norm of the gradient, in bands
FORWARD = slice(3, 6)  # the squared norm of the signal, in bands
TOTAL = 6  # the sum of the elements of the signal
COUNT = 7  # the number of elements of the signal
WIDTH = 8


@dataclass(frozen=True)
class Bands:
    """Powers of two that limit and scale the three sums.

    Attributes:
        low: smaller norms are multiplied by ``up`` before they are squared.
        high: larger norms are multiplied by ``down``.
        up: a factor.
        down: a factor.
    """

    low: float
    high: float
    up: float
    down: float


_FLOAT32 = Bands(2.0**-50, 2.0**50, 2.0**90, 2.0**-90)
_FLOAT64 = Bands(2.0**-400, 2.0**400, 2.0**600, 2.0**-600)


def _bands(dtype: Any) -> Bands:
    return _FLOAT64 if dtype == jnp.float64 else _FLOAT32


def slot_dtype(dtype: Any) -> Any:
    """The format of the statistics of an array of format ``dtype``."""
    return accumulator(dtype)


def square_in_bands(
    norm: Float[Array, "..."],
    factor: float = 1.0,
) -> Float[Array, "... 3"]:
    """The square of a norm as three numbers, which may be added to those of other norms.

    The norm is ``norm * factor``; the product itself may be too large for the format.
    """
    bands = _bands(norm.dtype)
    is_small = norm < bands.low / factor
    is_large = norm > bands.high / factor
    small = jnp.where(is_small, norm * bands.up, 0)
    middle = jnp.where(is_small | is_large, 0, norm)
    large = jnp.where(is_large, norm * bands.down, 0)
    scaled = jnp.stack([small, middle, large], axis=-1)
    return (scaled * factor) ** 2


def norm_of_bands(squares: Any) -> Any:
    """The square root of a sum of squares in three bands [..., 3], of JAX or of NumPy."""
    xp = _namespace(squares)
    bands = _bands(squares.dtype)
    with np.errstate(all="ignore"):
        roots = xp.sqrt(squares)
        small = roots[..., 0] / bands.up
        middle = roots[..., 1]
        large = roots[..., 2] / bands.down
        return _hypotenuse(_hypotenuse(small, middle), large)


def _hypotenuse(a: Any, b: Any) -> Any:
    """√(a² + b²) for numbers that are not negative, without overflow or underflow."""
    xp = _namespace(a)
    longer = xp.maximum(a, b)
    shorter = xp.minimum(a, b)
    is_usable = (longer > 0) & (longer < xp.inf)
    ratio = shorter / xp.where(is_usable, longer, 1)
    return xp.where(is_usable, longer * xp.sqrt(1 + ratio * ratio), longer)


def _namespace(array: Any) -> Any:
    """NumPy for its arrays, which are on the host already, and else JAX's."""
    return np if isinstance(array, np.ndarray | np.generic) else jnp


@jax.custom_vjp
def measure(h: Array, slot: Float[Array, " 8"]) -> Array:
    """``h`` [...] unchanged; the gradient for ``slot`` holds statistics of ``h`` and of ∂L/∂h."""
    del slot
    return h


def _forward(h: Array, slot: Array) -> tuple[Array, Array]:
    del slot
    return h, _forward_statistics(h)


def _backward(statistics: Array, cotangent: Array) -> tuple[Array, Array]:
    squares = _squares(cotangent)
    return cotangent, _sum_over_devices(jnp.concatenate([squares, statistics]))


def sums_in_double(dtype: Any) -> bool:
    """Whether squares of this format are summed in float64.

    Its range holds all squares of float32 numbers, and one pass is enough. A TPU has no float64.
    """
    return slot_dtype(dtype) == jnp.float32 and jax.default_backend() != "tpu"


def _norm(x: Array, divisor: float = 1.0) -> Array:
    if sums_in_double(x.dtype):
        return tree_euclidean_in_double(x, divisor=divisor)
    return tree_euclidean_by_branch(x, divisor=divisor)


# Traced once for all layers of the same shape.
@jax.jit
def _forward_statistics(h: Array) -> Array:
    total = jnp.sum(h, dtype=slot_dtype(h.dtype))
    count = jnp.full_like(total, h.size)
    # The norm of a large array overflows before its root mean square does.
    root_size = max(1.0, math.sqrt(h.size))
    root_mean_square = _norm(h, divisor=root_size)
    squares = square_in_bands(root_mean_square, factor=root_size)
    return jnp.concatenate([squares, jnp.stack([total, count])])


@jax.jit
def _squares(cotangent: Array) -> Array:
    return square_in_bands(_norm(cotangent))


measure.defvjp(_forward, _backward)


def _sum_over_devices(statistics: Array) -> Array:
    """Inside ``shard_map`` each device has a part of the array, and the slot is one for all."""
    axes = varying_axes(statistics)
    return lax.psum(statistics, axes) if axes else statistics


def varying_axes(x: Array) -> tuple[str, ...]:
    """The mesh axes of an enclosing ``shard_map`` along which an array differs."""
    kind = jax.typeof(x)
    manual = getattr(kind, "manual_axis_type", None)
    varying = getattr(manual, "varying", None)
    if varying is None:
        varying = getattr(kind, "vma", ())
    return tuple(varying)


@dataclass(frozen=True)
class Statistics:
    """The statistics of arrays, from the rows [N, 8] that their slots received.

    Attributes:
        signal_grad: ‖∂L/∂h‖ [N].
        activation_rms: the root mean square of h [N].
        activation_mean: its mean [N].
    """

    signal_grad: Any
    activation_rms: Any
    activation_mean: Any


def read_statistics(rows: Any) -> Statistics:
    """The statistics in rows [N, 8] of JAX or of NumPy.

    Where the backward pass did not reach an array, the gradient there is 0, and nothing is known
    of the signal.
    """
    xp = _namespace(rows)
    count = rows[..., COUNT]
    divisor = xp.where(count > 0, count, xp.nan).astype(rows.dtype)
    mean_squares = rows[..., FORWARD] / divisor[..., None]
    return Statistics(
        signal_grad=norm_of_bands(rows[..., BACKWARD]),
        activation_rms=norm_of_bands(mean_squares),
        activation_mean=rows[..., TOTAL] / divisor,
    )
