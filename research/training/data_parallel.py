"""The devices of one run: a mesh with the axis ``batch``, over which each batch of examples is split.

All else, weights, state and data, lies whole on every device, and sums over the batch are sums over all devices:
losses, gradients, statistics and gauges are those of one device but for rounding.
"""

import contextlib
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

BATCH = "batch"


def over_devices(kind: str) -> contextlib.AbstractContextManager:
    """The context in which everything of a run on the mesh ``kind`` happens, in each thread of its own.

    ``data_parallel`` takes all devices that there are, ``distributed`` those of all processes, the others one.
    """
    if kind not in ("data_parallel", "distributed"):
        return contextlib.nullcontext()
    return jax.set_mesh(jax.make_mesh((jax.device_count(),), (BATCH,), axis_types=(AxisType.Auto,)))


def devices() -> int:
    """How many devices share a batch here."""
    return jax.sharding.get_abstract_mesh().shape.get(BATCH, 1)


def check_split(batch: int, *, full_batch: bool = False) -> None:
    """Raises ValueError where the devices could not take equal parts of a batch."""
    if batch % devices():
        path = "data.limit" if full_batch else "train.batch_size"
        raise ValueError(f"{path} must be a multiple of {devices()}, the devices that share a batch, got {batch}")


def on_every_device(tree: Any) -> Any:
    """Arrays of the host, whole on every device of the run."""
    return jax.device_put(tree, _everywhere())


def placed(shapes: Any) -> Any:
    """Shapes as those of arrays that lie whole on every device, to compile for them ahead."""
    where = _everywhere()
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes)


def _everywhere() -> NamedSharding | None:
    """None for a single device: jax's own choice."""
    mesh = jax.sharding.get_mesh()
    return NamedSharding(mesh, PartitionSpec()) if BATCH in mesh.axis_names else None


def split(tree: Any) -> Any:
    """Within the program: each device takes its part of the leading axis B of all leaves."""
    return _constrained(tree, PartitionSpec(BATCH))


def whole(tree: Any) -> Any:
    """Within the program: every device keeps all of every leaf."""
    return _constrained(tree, PartitionSpec())


def _constrained(tree: Any, spec: PartitionSpec) -> Any:
    return tree if devices() == 1 else lax.with_sharding_constraint(tree, jax.tree.map(lambda _: spec, tree))
