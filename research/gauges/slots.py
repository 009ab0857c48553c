"""Probes that networks are built with: what passes forward, and what arrives backward.

A *slot* is a zero that is handed to the network beside its parameters. Differentiating the loss with respect to
the slot returns not a derivative but the statistic that the probe's backward rule left there, so nothing is
stored and it works under scan, vmap and sharding.
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _tap(h: Any, slot: Array, whole: Callable) -> Any:
    return h


_tap.defvjp(
    lambda h, slot, whole: (h, None),
    lambda whole, _, cotangent: (cotangent, tree_euclidean(whole(cotangent))),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _count(h: Any, slot: Array, whole: Callable) -> Any:
    return h


_count.defvjp(
    lambda h, slot, whole: (h, slot),
    lambda whole, slot, cotangent: (
        cotangent,
        exponent_counts(whole(cotangent)).astype(slot.dtype),
    ),
)


def tap(
    h: Any, slot: Slot | None, *, whole: Callable[[Any], Any] = lambda cotangent: cotangent
) -> Any:
    """The identity; the gradient with respect to ``slot`` is ‖∂L/∂h‖₂ over all of ``h``, the batch included.

    Where the slot is a vector instead of a number, it is how many elements of ∂L/∂h have which exponent; where it has
    the shape of ``h`` (two axes or more), it is ∂L/∂h itself.
    ``h`` is an array or a tree of them: of weights that several layers share, tapped in one layer, it is the part of
    the gradient that comes from that layer. Where a part of ∂L/∂h is here alone, ``whole`` of it is measured, and the
    part goes on. Without a slot nothing is compiled at all.
    """
    if slot is None:
        return h
    if slot.ndim > 1:
        return h + slot
    return _count(h, slot, whole) if slot.ndim else _tap(h, slot, whole)
