"""Probes inside a network: statistics of the forward signal and of the backward gradient.

A *slot* is a zero that the network receives in addition to its parameters. The gradient of the loss
with respect to the slot is not a derivative, but the statistic that the probe's backward rule
computes. So no activation is stored, and probes work under scan, vmap and sharding.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from research.gauges.exponents import exponent_counts
from research.gauges.norms import tree_euclidean

Slot = Float[Array, ""] | Float[Array, " bins"] | Float[Array, "B ..."]
Statistics = dict[str, Array]
Reduce = Callable[[Any], Any]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _measure_norm(
    h: Any,
    slot: Array,
    reduce: Reduce,
) -> Any:
    """The identity, whose gradient with respect to ``slot`` is the norm of the cotangent."""
    return h


def _norm_forward(
    h: Any,
    slot: Array,
    reduce: Reduce,
) -> tuple[Any, None]:
    return h, None


def _norm_backward(
    reduce: Reduce,
    _: None,
    cotangent: Any,
) -> tuple[Any, Array]:
    return cotangent, tree_euclidean(reduce(cotangent))


_measure_norm.defvjp(_norm_forward, _norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _measure_exponents(
    h: Any,
    slot: Array,
    reduce: Reduce,
) -> Any:
    """The identity, whose gradient with respect to ``slot`` are the cotangent's exponent counts."""
    return h


def _exponents_forward(
    h: Any,
    slot: Array,
    reduce: Reduce,
) -> tuple[Any, Array]:
    return h, slot


def _exponents_backward(
    reduce: Reduce,
    slot: Array,
    cotangent: Any,
) -> tuple[Any, Array]:
    counts = exponent_counts(reduce(cotangent))
    return cotangent, counts.astype(slot.dtype)


_measure_exponents.defvjp(_exponents_forward, _exponents_backward)


def _no_reduction(cotangent: Any) -> Any:
    return cotangent


def tap(
    h: Any,
    slot: Slot | None,
    *,
    reduce: Reduce = _no_reduction,
) -> Any:
    """The identity; the gradient with respect to ``slot`` is a statistic of ∂L/∂h.

    Args:
        h: an array, or a tree of arrays. For weights that several layers share, a tap in one layer
            measures the part of the gradient that comes from that layer.
        slot: what is measured. A number receives ‖∂L/∂h‖₂ over all of ``h``, batch included. A
            vector receives the counts of exponents of ``exponent_counts``. An array of the shape of
            ``h``, with two axes or more, receives ∂L/∂h itself. With None nothing is compiled.
        reduce: sums partial cotangents over devices before they are measured. The cotangent that is
            passed on stays partial.

    Returns:
        ``h``.
    """
    if slot is None:
        return h
    if slot.ndim > 1:
        return h + slot
    if slot.ndim == 1:
        return _measure_exponents(h, slot, reduce)
    return _measure_norm(h, slot, reduce)
