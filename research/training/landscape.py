"""The loss around and between points of weight space: lines, planes, and directions to go in."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from research.gauges.norms import nonzero_or_one
from research.training.layer_params import MATRIX_NAMES, STAGES, path_names

ROWS_ARE_FILTERS = ("vectors", "positions")  # one row for each token or position
Coordinates = Float[Array, " A"]
LossFunction = Callable[[Any], Array]


def filter_normalized(params: Any, key: Array) -> Any:
    """A random direction in which every filter has the norm that it has in ``params``.

    The entries are drawn from N(0, 1). A filter is the weights into one unit or channel, the vector
    of one token, or that of one position. Biases and the parameters of norms stay as they are. So
    the loss along the direction does not depend on the scale that a network gives its layers.

    Args:
        params: where the direction starts.
        key: decides the direction.

    Returns:
        A tree like ``params``.

    References:
        Li, Xu, Taylor, Studer, Goldstein, Visualizing the loss landscape of neural nets, 2018, §4.
    """
    leaves, structure = jax.tree.flatten_with_path(params)
    directions = []
    for number, (path, weights) in enumerate(leaves):
        leaf_key = jax.random.fold_in(key, number)
        draw = jax.random.normal(leaf_key, weights.shape, weights.dtype)
        directions.append(_scale_filters(path, draw, weights))
    return jax.tree.unflatten(structure, directions)


def _scale_filters(
    path: tuple,
    direction: Array,
    weights: Array,
) -> Array:
    """The direction of one array, each of its filters scaled to the norm that it has in weights."""
    names = path_names(path)
    name = next((name for name in reversed(names) if name in MATRIX_NAMES), None)
    if name is None:
        return jnp.zeros_like(direction)
    axes = (weights.ndim - 1,)
    if name not in ROWS_ARE_FILTERS:
        first_axis = 1 if STAGES in names else 0  # layers are stacked
        axes = tuple(range(first_axis, weights.ndim - 1))
    target = jnp.sqrt(jnp.sum(weights**2, axis=axes, keepdims=True))
    present = jnp.sqrt(jnp.sum(direction**2, axis=axes, keepdims=True))
    return direction * (target / nonzero_or_one(present))


def move(
    params: Any,
    direction: Any,
    distance: Array | float,
) -> Any:
    """``params`` + ``distance`` · ``direction``, leaf by leaf, in the format of ``params``.

    Args:
        params: where the direction starts.
        direction: a tree like ``params``.
        distance: in units of ``direction``.
    """

    def move_leaf(start: Array, change: Array) -> Array:
        return (start + distance * change).astype(start.dtype)

    return jax.tree.map(move_leaf, params, direction)


def losses_on_line(
    loss: LossFunction,
    params: Any,
    direction: Any,
    coordinates: Coordinates,
) -> Float[Array, " A"]:
    """The loss at ``params`` + a · ``direction`` for each coordinate a; A evaluations of the loss.

    Args:
        loss: the loss as a function of the parameters.
        params: the point with coordinate 0.
        direction: a tree like ``params``.
        coordinates: in units of the direction.
    """
    return lax.map(lambda a: loss(move(params, direction, a)), coordinates)


def losses_on_plane(
    loss: LossFunction,
    params: Any,
    first: Any,
    second: Any,
    coordinates: Coordinates,
) -> Float[Array, "A A"]:
    """The loss at ``params`` + a · ``first`` + b · ``second``; A² evaluations of the loss.

    Args:
        loss: the loss as a function of the parameters.
        params: the point with coordinates 0 and 0.
        first: a tree like ``params``.
        second: a tree like ``params``.
        coordinates: the values of a and b.

    Returns:
        Entry i, j is the loss where a is coordinate i and b is coordinate j.
    """

    def row(a: Array) -> Array:
        return losses_on_line(loss, move(params, first, a), second, coordinates)

    return lax.map(row, coordinates)


def difference(end: Any, start: Any) -> Any:
    """``end`` − ``start``, leaf by leaf: the direction of the straight line between two points."""
    return jax.tree.map(jnp.subtract, end, start)
