"""What the symmetries of a network do to its gradient: where scaling weights changes nothing, and what then is kept.

References:
    Du, Hu, Lee, Algorithmic regularization in learning deep homogeneous models: layers are automatically balanced,
    2018. Kunin et al., Neural mechanics: symmetry and broken conservation laws in deep learning dynamics, 2021.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from research.gauges.layers import each_layer, layer_norms
from research.gauges.norms import tree_euclidean

Kernels = list[
    list[Any]
]  # as ``layers.each_layer`` takes them, a layer's being lists of weights [n, …, units]


def scale_derivatives(weights: Kernels, gradients: Kernels) -> Float[Array, " N"]:
    """⟨W, ∂L/∂W⟩ over all weights of each layer: the derivative of the loss by the logarithm of their scale."""

    def products(ws: list[Array], gs: list[Array]) -> Array:
        return jnp.sum(jnp.stack([_sum(w * g, 1) for w, g in zip(ws, gs, strict=True)]), axis=0)

    return each_layer(products, weights, gradients)


def layer_cosines(weights: Kernels, gradients: Kernels) -> Float[Array, " N"]:
    """The cosine between each layer's weights and their gradient; 0 where there is no gradient."""
    lengths = layer_norms(weights) * layer_norms(gradients)
    return scale_derivatives(weights, gradients) / jnp.where(lengths > 0, lengths, 1)


def unit_cosines(weights: Kernels, gradients: Kernels) -> Float[Array, " N"]:
    """The greatest |cosine| between the weights that enter a unit and their gradient, of each layer's units."""

    def greatest(ws: list[Array], gs: list[Array]) -> Array:
        cosines = [_sum(_directions(w) * _directions(g), 2) for w, g in zip(ws, gs, strict=True)]
        return jnp.max(jnp.abs(jnp.concatenate(cosines, axis=1)), axis=1)

    return each_layer(greatest, weights, gradients)


def balance(
    embed: Float[Array, "I D"],
    layers: Float[Array, "N D D"],
    head: Float[Array, "D C"],
    biases: Float[Array, "N1 D"] | None = None,
) -> Float[Array, "N1 D"]:
    """‖w_in‖² + b² − ‖w_out‖² of each unit of h_0 to h_N: of what enters it and what leaves it (Du, Hu, Lee 2018)."""
    entering = jnp.concatenate([jnp.sum(embed**2, axis=0)[None], jnp.sum(layers**2, axis=1)])
    leaving = jnp.concatenate([jnp.sum(layers**2, axis=2), jnp.sum(head**2, axis=1)[None]])
    return entering - leaving + (0 if biases is None else biases**2)


def _sum(x: Array, axes: int) -> Array:
    """Over all axes but the first ones."""
    return jnp.sum(x, axis=tuple(range(axes, x.ndim)))


def _directions(x: Float[Array, "n ... units"]) -> Float[Array, "n units ..."]:
    """What enters each unit, at length 1."""
    rows = jnp.moveaxis(x, -1, 1).reshape(len(x), x.shape[-1], -1)
    lengths = tree_euclidean(rows, batch_axes=2)
    return rows / jnp.where(lengths > 0, lengths, 1)[..., None]
