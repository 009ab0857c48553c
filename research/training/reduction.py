"""Reduces the results of a train step over the devices that share a batch."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from research.gauges.norms import tree_euclidean
from research.parallel.collectives import AXIS, batch_axis_size, psum_tree

NORMS = ("signal_grad", "branch_grad", "skip_grad")  # gauges that are norms over the batch
RMS = "activation_rms"  # the gauge that is a root mean square over the batch


def all_reduce_step(
    grads: Any, means: Any, profile: dict[str, Array]
) -> tuple[Any, Any, dict[str, Array]]:
    """Combines the results of the devices that share a batch into those of the whole batch.

    Norms are combined without overflow or underflow of their squares. Layers that share their
    weights have measured their whole gradient, so their gauges are means like any other. Everything
    is exchanged in a single all-reduce.

    Args:
        grads: gradients of the shares that ``local_loss_share`` gives, so the batch has their sum.
        means: means over equal numbers of examples.
        profile: gauges of each layer [N]: norms and root mean squares over the device's examples
            (``NORMS`` and ``RMS``), and means.

    Returns:
        The gradients, means and profile of the whole batch, on every device.
    """
    num_devices = batch_axis_size()
    if num_devices == 1:
        return grads, means, profile
    norms = {}
    profile_means = {}
    for name, values in profile.items():
        if name in (*NORMS, RMS):
            norms[name] = _in_column_of_device(values, num_devices)
        else:
            profile_means[name] = values
    local_means = (means, profile_means)
    shares = jax.tree.map(lambda mean: mean / num_devices, local_means)
    grads, (means, reduced), norms = psum_tree((grads, shares, norms))
    for name, of_devices in norms.items():
        reduced[name] = tree_euclidean(of_devices, batch_axes=1)
    if RMS in norms:
        reduced[RMS] = reduced[RMS] / num_devices**0.5
    return grads, means, reduced


def _in_column_of_device(values: Float[Array, " N"], num_devices: int) -> Float[Array, "N devices"]:
    """Zeros but for this device's column, so that the sum over devices has all columns."""
    columns = jnp.zeros((len(values), num_devices), values.dtype)
    return columns.at[:, lax.axis_index(AXIS)].set(values)
