"""What the symmetries of a network imply for its gradient, measured.

Where a change of the weights' scale leaves the network unchanged, some products of weights and
gradients are conserved.

References:
    Du, Hu, Lee, Algorithmic regularization in learning deep homogeneous models: layers are
    automatically balanced, 2018. Kunin et al., Neural mechanics: symmetry and broken conservation
    laws in deep learning dynamics, 2021.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from research.gauges.layers import PerLayer, StageParams, each_layer, layer_norms
from research.gauges.norms import nonzero_or_one, tree_euclidean

Kernels = list[StageParams]  # a layer is a list of weights [blocks, …, units]
Weights = list[Array]  # of one layer of the block


def scale_derivatives(weights: Kernels, gradients: Kernels) -> PerLayer:
    """⟨W, ∂L/∂W⟩ of each layer, the derivative of the loss by the log of its weights' scale."""
    return each_layer(_inner_product, weights, gradients)


def _inner_product(weights: Weights, gradients: Weights) -> Array:
    """The sum over all weights of a layer, [blocks]."""
    products = []
    for w, g in zip(weights, gradients, strict=True):
        product = _sum_inner_axes(w * g, batch_axes=1)
        products.append(product)
    return jnp.sum(jnp.stack(products), axis=0)


def layer_cosines(weights: Kernels, gradients: Kernels) -> PerLayer:
    """The cosine between each layer's weights and their gradient; 0 where there is no gradient."""
    lengths = layer_norms(weights) * layer_norms(gradients)
    products = scale_derivatives(weights, gradients)
    return products / nonzero_or_one(lengths)


def unit_cosines(weights: Kernels, gradients: Kernels) -> PerLayer:
    """The largest |cosine| between a unit's incoming weights and their gradient, in each layer."""
    return each_layer(_largest_unit_cosine, weights, gradients)


def _largest_unit_cosine(weights: Weights, gradients: Weights) -> Array:
    """The largest |cosine| over the units of a layer, [blocks]."""
    cosines = []
    for w, g in zip(weights, gradients, strict=True):
        products = _incoming_directions(w) * _incoming_directions(g)
        cosines.append(_sum_inner_axes(products, batch_axes=2))
    sizes = jnp.abs(jnp.concatenate(cosines, axis=1))
    return jnp.max(sizes, axis=1)


def balance(
    embed: Float[Array, "I D"],
    layers: Float[Array, "N D D"],
    head: Float[Array, "D C"],
    biases: Float[Array, "N1 D"] | None = None,
) -> Float[Array, "N1 D"]:
    """‖w_in‖² + b² − ‖w_out‖² of each unit of h_0 to h_N, for incoming and outgoing weights.

    Args:
        embed: the weights into h_0.
        layers: the weights from h_l to h_{l+1}.
        head: the weights out of h_N.
        biases: the biases of all units, if there are any.

    References:
        Du, Hu, Lee, Algorithmic regularization in learning deep homogeneous models, 2018.
    """
    into_first = jnp.sum(embed**2, axis=0)
    into_others = jnp.sum(layers**2, axis=1)
    incoming = jnp.concatenate([into_first[None], into_others])
    out_of_others = jnp.sum(layers**2, axis=2)
    out_of_last = jnp.sum(head**2, axis=1)
    outgoing = jnp.concatenate([out_of_others, out_of_last[None]])
    squared_biases = 0 if biases is None else biases**2
    return incoming - outgoing + squared_biases


def _sum_inner_axes(x: Array, batch_axes: int) -> Array:
    """The sum over all axes except the first ``batch_axes``."""
    inner_axes = tuple(range(batch_axes, x.ndim))
    return jnp.sum(x, axis=inner_axes)


def _incoming_directions(x: Float[Array, "n ... units"]) -> Float[Array, "n units ..."]:
    """The weights into each unit as one vector of length 1."""
    num_blocks = x.shape[0]
    num_units = x.shape[-1]
    by_unit = jnp.moveaxis(x, -1, 1)
    rows = by_unit.reshape(num_blocks, num_units, -1)
    lengths = tree_euclidean(rows, batch_axes=2)
    divisors = nonzero_or_one(lengths)
    return rows / divisors[..., None]
