"""Gauges of a layer's parameters: the sizes of its gradient, its weights and its update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.gauges.norms import accumulator, tree_euclidean

StageParams = list[Any]  # one tree of parameters for each layer of the stage's block
PerLayer = Float[Array, " N"]


def each_layer(measure: Callable[..., Array], *stages: list[StageParams]) -> PerLayer:
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


def layer_norms(stages: list[StageParams]) -> PerLayer:
    """The Euclidean norm over all parameters of each layer; ``stages`` as for ``each_layer``."""

    def norms_of_blocks(stack: Any) -> Array:
        return tree_euclidean(stack, batch_axes=1)

    return each_layer(norms_of_blocks, stages)


def weight_and_update_norms(
    before: list[StageParams], after: list[StageParams]
) -> tuple[PerLayer, PerLayer]:
    """The norms ‖θ‖ before an update and ‖Δθ‖ of the update, each [N].

    Both are computed from the parameters as stored. ``before`` and ``after`` are stages as for
    ``each_layer``.
    """
    change = jax.tree.map(_difference, after, before)
    return layer_norms(before), layer_norms(change)


def _difference(new: Array, old: Array) -> Array:
    """``new`` − ``old``, in float32 or wider."""
    wide = accumulator(new.dtype)
    return new.astype(wide) - old.astype(wide)
