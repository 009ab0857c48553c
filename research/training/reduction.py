"""What one step reduces over the devices that share its batch, in a single all-reduce."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from research.gauges.norms import tree_euclidean
from research.gauges.table import GAUGES, Reduction
from research.parallel.collectives import AXIS, batch_axis_size, psum_tree

REDUCTIONS = {gauge.name: gauge.reduction for gauge in GAUGES}
FROM_SQUARES = (Reduction.NORM, Reduction.RMS)


def all_reduce_step(
    grads: Any,
    means: Any,
    profile: dict[str, Array],
) -> tuple[Any, Any, dict[str, Array]]:
    """Combines what each device has of its examples to what one device would have of the whole
    batch.

    Norms and root mean squares are combined over the whole range of the number format.

    Args:
        grads: shares of a sum.
        means: means over equally many examples each.
        profile: gauges by name, combined as their entry in the table says.

    Returns:
        The three of the whole batch.
    """
    devices = batch_axis_size()
    if devices == 1:
        return grads, means, profile
    squared = {}
    averaged = {}
    for name, values in profile.items():
        if REDUCTIONS[name] in FROM_SQUARES:
            squared[name] = _place_among_devices(devices, values)
        else:
            averaged[name] = values / devices
    means = jax.tree.map(lambda mean: mean / devices, means)
    grads, means, averaged, squared = psum_tree((grads, means, averaged, squared))
    combined = dict(averaged)
    for name, rows in squared.items():
        norm = tree_euclidean(rows, batch_axes=1)
        is_rms = REDUCTIONS[name] is Reduction.RMS
        combined[name] = norm / devices**0.5 if is_rms else norm
    return grads, means, combined


def _place_among_devices(devices: int, values: Float[Array, " N"]) -> Float[Array, "N devices"]:
    """This device's values in its own column of zeros, so that a sum over devices keeps all
    columns.
    """
    columns = jnp.zeros((len(values), devices), values.dtype)
    return columns.at[:, lax.axis_index(AXIS)].set(values)
