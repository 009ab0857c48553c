"""Gauges of a layer's parameters: the sizes of its gradient, its weights and its update."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from research.gauges.norms import accumulator, tree_euclidean

StageParams = list[Any]  # one tree of parameters for each layer of the stage's block
PerLayer = Float[Array, " N"]


def each_layer(
    measure: Callable[..., Array],
    *stages: list[StageParams],
    count: Array | None = None,
) -> PerLayer:
    """Applies ``measure`` to each layer's parameters, in forward order.

    A stage is a list with one tree for each layer of its block. The parameters of the stage's
    blocks are stacked on the leading axis of the leaves.

    Args:
        measure: maps a tree with a leading block axis to one number for each block.
        stages: lists of stages of the same structure; ``measure`` gets one tree from each list.
        count: how many blocks of each stage there are, where that is an argument of the program;
            the trees may have room for more. The others get zeros. None for all.

    Returns:
        One number for each layer.
    """
    measure_blocks = measure
    if count is not None:
        measure_blocks = functools.partial(_in_turn, measure, count)
    measured = []
    for stage in zip(*stages, strict=True):
        by_layer = []
        for stacks in zip(*stage, strict=True):
            by_layer.append(measure_blocks(*stacks))
        measured.append(jnp.stack(by_layer, axis=1))  # [blocks, layers of a block]
    return jnp.concatenate([stage.reshape(-1) for stage in measured])


def _in_turn(
    measure: Callable[..., Array],
    count: Array,
    *stacks: Any,
) -> Array:
    """Applies ``measure`` to one block after the other, so that no result depends on their number.

    Over all blocks at once, the order of a sum could depend on how many there are.
    """

    def measure_block(index: Array | int) -> Array:
        read = functools.partial(lax.dynamic_slice_in_dim, start_index=index, slice_size=1)
        blocks = jax.tree.map(read, stacks)
        return measure(*blocks)[0]

    def step(index: Array, values: Array) -> Array:
        return values.at[index].set(measure_block(index))

    first_leaf = jax.tree.leaves(stacks)[0]
    capacity = len(first_leaf)
    dtype = jax.eval_shape(measure_block, 0).dtype
    zeros = jnp.zeros(capacity, dtype)
    return lax.fori_loop(0, count, step, zeros)


def layer_norms(stages: list[StageParams], count: Array | None = None) -> PerLayer:
    """The Euclidean norm over all parameters of each layer; arguments as for ``each_layer``."""
    return each_layer(_norms_of_blocks, stages, count=count)


def weight_and_update_norms(
    before: list[StageParams],
    after: list[StageParams],
    count: Array | None = None,
) -> tuple[PerLayer, PerLayer]:
    """The norms ‖θ‖ before an update and ‖Δθ‖ of the update, each [N].

    Both are computed from the parameters as stored.

    Args:
        before: stages as for ``each_layer``.
        after: the same stages after the update.
        count: as for ``each_layer``.
    """
    weight_norms = layer_norms(before, count)
    update_norms = each_layer(_norms_of_changes, after, before, count=count)
    return weight_norms, update_norms


def _norms_of_blocks(stack: Any) -> Array:
    return tree_euclidean(stack, batch_axes=1)


def _norms_of_changes(after: Any, before: Any) -> Array:
    changes = jax.tree.map(_difference, after, before)
    return _norms_of_blocks(changes)


def _difference(new: Array, old: Array) -> Array:
    """``new`` − ``old``, in float32 or wider."""
    wide = accumulator(new.dtype)
    return new.astype(wide) - old.astype(wide)
