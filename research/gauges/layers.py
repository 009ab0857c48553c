"""Gauges of a layer's parameters: the sizes of its gradient, its weights and its update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.gauges.norms import accumulator, nonzero_or_one, tree_euclidean


def each_layer(measure: Callable[..., Array], *stages: list[list[Any]]) -> Float[Array, " N"]:
    """Applies ``measure`` to each layer's parameters, in forward order.

    A stage is a list with one tree for each layer of its block. The parameters of the stage's
    blocks are stacked on the leading axis of the leaves.

    Args:
        measure: maps a tree with a leading block axis to one number for each block.
        stages: lists of stages of the same structure; ``measure`` gets one tree from each list.

    Returns:
        One number for each layer.
    """
    measured = []
    for stage in zip(*stages, strict=True):
        by_layer = []
        for stacks in zip(*stage, strict=True):
            by_layer.append(measure(*stacks))
        measured.append(jnp.stack(by_layer, axis=1))  # [blocks, layers of a block]
    return jnp.concatenate([stage.reshape(-1) for stage in measured])


def layer_norms(stages: list[list[Any]]) -> Float[Array, " N"]:
    """The Euclidean norm over all parameters of each layer; ``stages`` as for ``each_layer``."""
    return each_layer(lambda stack: tree_euclidean(stack, batch_axes=1), stages)


def update_gauges(before: list[list[Any]], after: list[list[Any]]) -> dict[str, Float[Array, " N"]]:
    """Norms of the weights before a step and of the update that the step made, and their ratio.

    ``update_norm`` compares stored parameters, so it does not include what the number format rounds
    away. The ratio is NaN where the weights are all zero.
    """
    change = jax.tree.map(lambda new, old: _widen(new) - _widen(old), after, before)
    weight = layer_norms(before)
    update = layer_norms(change)
    is_nonzero = weight > 0
    ratio = update / nonzero_or_one(weight)
    return {
        "weight_norm": weight,
        "update_norm": update,
        "update_ratio": jnp.where(is_nonzero, ratio, jnp.nan),
    }


def _widen(x: Array) -> Array:
    return x.astype(accumulator(x.dtype))
