"""What one step reduces over the devices that share its batch, in a single all-reduce."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from research.gauges.norms import tree_euclidean
from research.gauges.table import GAUGES, Reduction
from research.parallel.collectives import AXIS, batch_axis_size, psum_tree

REDUCTIONS = {gauge.name: gauge.reduction for gauge in GAUGES}
BY_DEVICE = (Reduction.NORM, Reduction.RMS, Reduction.MAX)  # each device's value is needed


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepResults:
    """What a step computes from the examples of one device, or from the whole batch.

    Attributes:
        grads: the gradient; of one device its share of the sum.
        means: means over the examples.
        profile: gauges by name.
    """

    grads: Any
    means: Any
    profile: dict[str, Array]


def all_reduce_step(local: StepResults) -> StepResults:
    """Combines the results of all devices into those of the whole batch.

    The table of gauges says how each gauge is combined. Norms and root mean squares are combined
    over the whole range of the number format.
    """
    devices = batch_axis_size()
    if devices == 1:
        return local
    separate = {}
    averaged = {}
    for name, values in local.profile.items():
        if REDUCTIONS[name] in BY_DEVICE:
            separate[name] = _place_among_devices(devices, values)
        else:
            averaged[name] = values / devices
    means = jax.tree.map(lambda mean: mean / devices, local.means)
    grads, means, averaged, separate = psum_tree((local.grads, means, averaged, separate))
    combined = dict(averaged)
    for name, rows in separate.items():
        if REDUCTIONS[name] is Reduction.MAX:
            combined[name] = jnp.max(rows, axis=1)
            continue
        norm = tree_euclidean(rows, batch_axes=1)
        is_rms = REDUCTIONS[name] is Reduction.RMS
        combined[name] = norm / devices**0.5 if is_rms else norm
    return StepResults(grads, means, combined)


def _place_among_devices(devices: int, values: Float[Array, " N"]) -> Float[Array, "N devices"]:
    """One column for each device, zero but for this device's, so that the sum has all columns."""
    columns = jnp.zeros((len(values), devices), values.dtype)
    return columns.at[:, lax.axis_index(AXIS)].set(values)
