"""A batch that several devices share: what couples its examples inside the network, and this device's part of it.

Within a program that is mapped over the axis ``batch`` each device holds its own examples, as many as any other, and
everything else whole. Elsewhere one device holds the whole batch, and nothing here does anything.
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
    """How many devices share the batch."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[AXIS] if AXIS in mesh.manual_axes else 1


def axis() -> str | None:
    """The axis that the batch is shared along, where it is."""
    return AXIS if batch_axis_size() > 1 else None


def shard_batch(tree: Any) -> Any:
    """This device's rows of leaves that hold the whole batch along their leading axis."""
    devices = batch_axis_size()
    if devices == 1:
        return tree

    def rows(leaf: Array) -> Array:
        size = len(leaf) // devices
        return lax.dynamic_slice_in_dim(leaf, lax.axis_index(AXIS) * size, size)

    return jax.tree.map(rows, tree)


def local_loss_share(mean: Array) -> Array:
    """Of the mean over this device's examples, what it adds to the mean over the batch."""
    return mean / batch_axis_size() if batch_axis_size() > 1 else mean


def sample_then_shard(draw: Callable[[tuple[int, ...]], Array], shape: tuple[int, ...]) -> Array:
    """What ``draw`` gives of a shape, for an array [B, …] with this device's examples, or () for all alike.

    Drawn for the whole batch, so that chance does not depend on how many devices share it.
    """
    if batch_axis_size() == 1 or not shape:
        return draw(shape)
    return shard_batch(draw((shape[0] * batch_axis_size(), *shape[1:])))


def psum_tree(tree: Any) -> Any:
    """The sum over the devices that share the batch, of all leaves in one all-reduce: each has to wait for all."""
    if batch_axis_size() == 1:
        return tree
    flat, restore = ravel_pytree(tree)
    placed = jnp.zeros_like(flat)
    start = 0
    for leaf in jax.tree.leaves(
        tree
    ):  # on CPUs a concatenation may be computed together with its parts, at their cost
        placed = lax.dynamic_update_slice(placed, leaf.astype(flat.dtype).reshape(-1), (start,))
        start += leaf.size
    return restore(lax.psum(placed, AXIS))


def pmax(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The greatest of the numbers that the devices have here."""
    return lax.pmax(x, AXIS) if batch_axis_size() > 1 else x


def all_true(x: Bool[Array, "..."]) -> Bool[Array, "..."]:
    """Whether it holds on all devices."""
    return lax.pmin(x.astype(jnp.int32), AXIS) > 0 if batch_axis_size() > 1 else x
