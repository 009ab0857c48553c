"""Collectives over a batch whose examples are split over several devices.

Inside a program that is mapped over the mesh axis ``batch``, each device holds an equal share of
the examples and a full copy of everything else. Outside such a program one device holds the whole
batch, and the functions here return their arguments unchanged.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

AXIS = "batch"


def batch_axis_size() -> int:
    """The number of devices that share the batch."""
    mesh = jax.sharding.get_abstract_mesh()
    if AXIS not in mesh.manual_axes:
        return 1
    return mesh.shape[AXIS]


def axis() -> str | None:
    """The name of the mesh axis that splits the batch; None where one device holds all of it."""
    return AXIS if batch_axis_size() > 1 else None


def shard_batch(tree: Any) -> Any:
    """This device's rows of arrays whose leading axis is the whole batch."""
    num_devices = batch_axis_size()
    if num_devices == 1:
        return tree

    def take_rows(leaf: Array) -> Array:
        size = len(leaf) // num_devices
        start = lax.axis_index(AXIS) * size
        return lax.dynamic_slice_in_dim(leaf, start, size)

    return jax.tree.map(take_rows, tree)


def local_loss_share(mean: Array) -> Array:
    """What this device's mean [] contributes to the mean over the whole batch []."""
    num_devices = batch_axis_size()
    if num_devices == 1:
        return mean
    return mean / num_devices


def sample_then_shard(draw: Callable[[tuple[int, ...]], Array], shape: tuple[int, ...]) -> Array:
    """Draws random numbers for the whole batch and returns this device's share of them.

    The result therefore does not depend on the number of devices.

    Args:
        draw: returns random numbers of a given shape.
        shape: the shape of the result: [B, …] with this device's B examples, or () for one number
            that all examples share.
    """
    num_devices = batch_axis_size()
    if num_devices == 1 or not shape:
        return draw(shape)
    num_examples = shape[0] * num_devices
    return shard_batch(draw((num_examples, *shape[1:])))


def psum_tree(tree: Any) -> Any:
    """The sum of every leaf over the devices that share the batch, in a single all-reduce.

    The devices wait for one another in every all-reduce, so one for all leaves is the fastest.
    """
    if batch_axis_size() == 1:
        return tree
    flat, unravel = ravel_pytree(tree)
    # Not a concatenation: XLA may fuse it with the computation of its parts, slow on CPUs.
    buffer = jnp.zeros_like(flat)
    start = 0
    for leaf in jax.tree.leaves(tree):
        values = leaf.astype(flat.dtype).reshape(-1)
        buffer = lax.dynamic_update_slice(buffer, values, (start,))
        start += leaf.size
    return unravel(lax.psum(buffer, AXIS))


def pmax(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The elementwise maximum over the devices that share the batch."""
    if batch_axis_size() == 1:
        return x
    return lax.pmax(x, AXIS)


def all_true(x: Bool[Array, "..."]) -> Bool[Array, "..."]:
    """Whether each element is true on all devices that share the batch."""
    if batch_axis_size() == 1:
        return x
    return lax.pmin(x.astype(jnp.int32), AXIS) > 0
