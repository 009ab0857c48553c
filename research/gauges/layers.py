"""Gauges of a layer's parameters: how large are its gradient, its weights and its update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.gauges.norms import accumulator, tree_euclidean


def each_layer(measure: Callable[..., Array], *stages: list[list[Any]]) -> Float[Array, " N"]:
    """``measure`` of each layer's parameters, in forward order.

    A stage holds, for each layer of its blocks, the tree of the blocks' parameters, stacked on a leading axis, which
    ``measure`` keeps. Of more than one list of stages it gets as many trees.
    """
    parts = [
        jnp.stack([measure(*stacks) for stacks in zip(*stage, strict=True)], axis=1)
        for stage in zip(*stages, strict=True)
    ]
    return jnp.concatenate([part.reshape(-1) for part in parts])


def layer_norms(stages: list[list[Any]]) -> Float[Array, " N"]:
    """The Euclidean norm over all parameters of each layer, in forward order; ``stages`` as for ``each_layer``."""
    return each_layer(lambda stack: tree_euclidean(stack, batch_axes=1), stages)


def layer_sizes_and_updates(
    before: list[list[Any]], after: list[list[Any]]
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Norms of each layer's parameters before an update, and of what the update changed in them.

    Compares stored parameters. ``before`` and ``after`` are stages as for ``each_layer``.
    """
    change = jax.tree.map(lambda new, old: _wide(new) - _wide(old), after, before)
    return layer_norms(before), layer_norms(change)


def _wide(x: Array) -> Array:
    return x.astype(accumulator(x.dtype))
