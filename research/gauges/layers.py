"""Gauges of a layer's parameters: how large are its gradient, its weights and its update."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.gauges.norms import accumulator, tree_euclidean


def layer_norms(stages: list[list[Any]]) -> Float[Array, " N"]:
    """The Euclidean norm over all parameters of each layer, in forward order.

    A stage holds, for each layer of its blocks, the tree of the blocks' parameters, stacked on a leading axis.
    """
    norms = [jnp.stack([tree_euclidean(stack, batch_axes=1) for stack in stage], axis=1) for stage in stages]
    return jnp.concatenate([norm.reshape(-1) for norm in norms])


def update_gauges(before: list[list[Any]], after: list[list[Any]]) -> dict[str, Float[Array, " N"]]:
    """Norms per layer of the weights before the step and of what the step changed in them, and their ratio.

    ``update_norm`` compares stored parameters, so it holds what the number format let through. The ratio is NaN
    where the weights are all zero.
    """
    change = jax.tree.map(lambda new, old: _wide(new) - _wide(old), after, before)
    weight, update = layer_norms(before), layer_norms(change)
    ratio = jnp.where(weight > 0, update / jnp.where(weight > 0, weight, 1), jnp.nan)
    return {"weight_norm": weight, "update_norm": update, "update_ratio": ratio}


def _wide(x: Array) -> Array:
    return x.astype(accumulator(x.dtype))
