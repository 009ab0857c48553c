"""How runs are spread over the devices: whole runs over the mesh axis ``runs``, or each batch over the axis ``batch``.

A run whose batches are split is the same run: weights, state and data lie whole on every device, and sums over the
batch are sums over all devices: losses, gradients, statistics and gauges are those of one device but for rounding.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from research.gauges.norms import tree_euclidean
from research.parallel.collectives import AXIS, batch_axis_size, psum_tree

# of a profile, over the batch too
NORMS = ("signal_grad", "branch_grad", "skip_grad")
RMS = "activation_rms"


@dataclasses.dataclass(frozen=True)
class Layout:
    """How M runs are spread: over ``devices`` along ``axis``, and ``map_mode`` each of them.

    Along ``runs`` a device takes whole runs, of which M is a multiple; along ``batch`` its part of every batch of every
    run. ``map`` takes the runs of a device one after the other, each exactly as it would be alone; ``vmap`` takes them
    together, which a wide device needs to be kept busy, and rounds differently.
    """

    map_mode: str = "map"
    devices: int = 1
    axis: str = "runs"

    @property
    def num_run_shards(self) -> int:
        """How many devices have runs of their own."""
        return self.devices if self.axis == "runs" else 1


SINGLE_DEVICE = Layout()


def make_layout(
    runs: int, *, kind: str = "auto", map_mode: str = "auto", devices: int | None = None
) -> Layout:
    """The layout of ``runs`` runs on at most ``devices`` devices, None for all; ``auto`` is ``map`` on CPUs.

    ``kind`` is that of the configuration's mesh: ``single`` takes one device, ``data_parallel`` and ``distributed``
    split batches over all that there are, in all processes.
    """
    if kind in ("data_parallel", "distributed"):
        return Layout("map", jax.device_count(), "batch")
    if kind == "single":
        devices = 1
    if map_mode == "auto":
        map_mode = "map" if jax.default_backend() == "cpu" else "vmap"
    return Layout(map_mode, min(devices or jax.device_count(), jax.device_count(), runs))


def map_runs(
    layout: Layout, function: Callable, *, num_mapped: int, num_broadcast: int = 0
) -> Callable:
    """``function`` of one run as one of M: the first ``num_mapped`` arguments gain a leading runs axis, then the ``num_broadcast`` others do not."""

    def runs(*arguments: Any) -> Any:
        members = arguments[:num_mapped]
        rest = arguments[num_mapped:]
        if layout.map_mode == "vmap":
            return jax.vmap(lambda *member: function(*member, *rest))(*members)
        return lax.map(lambda member: function(*member, *rest), members)

    if layout.devices == 1:
        return runs
    mine = P("runs") if layout.axis == "runs" else P()
    specs = (mine,) * num_mapped + (P(),) * num_broadcast
    return jax.shard_map(runs, mesh=_mesh(layout), in_specs=specs, out_specs=mine, check_vma=False)


def replicated(layout: Layout) -> Layout:
    """The layout of what each device that shares a batch does whole by itself, from arrays that lie on all of them."""
    return dataclasses.replace(layout, devices=1) if layout.axis == AXIS else layout


def all_reduce_step(
    grads: Any, means: Any, profile: dict[str, Array]
) -> tuple[Any, Any, dict[str, Array]]:
    """Within a program: from what each device has of its examples to what one would have of the whole batch.

    ``grads`` are parts of a sum, ``means`` of as many examples each, ``profile`` what the network measured: norms and
    root mean squares of a part, which are put together over the whole range of the number format, and means. Weights
    that layers share have measured their whole gradient already. All of it takes one all-reduce.
    """
    devices = batch_axis_size()
    if devices == 1:
        return grads, means, profile
    apart = {
        name: _among(devices, values) for name, values in profile.items() if name in (*NORMS, RMS)
    }
    others = {name: values for name, values in profile.items() if name not in apart}
    means, others = jax.tree.map(lambda mean: mean / devices, (means, others))
    grads, means, others, apart = psum_tree((grads, means, others, apart))
    norms = {name: tree_euclidean(rows, batch_axes=1) for name, rows in apart.items()}
    norms |= {RMS: norms[RMS] / devices**0.5} if RMS in norms else {}
    return grads, means, others | norms


def _among(devices: int, values: Float[Array, " N"]) -> Float[Array, "N devices"]:
    """What the sum over the devices turns into the values of each."""
    return jnp.zeros((len(values), devices), values.dtype).at[:, lax.axis_index(AXIS)].set(values)


def check_split(layout: Layout, batch: int, path: str) -> None:
    """Raises ValueError, naming the setting at ``path``, where devices could not take equal parts of a batch."""
    if layout.axis == "batch" and batch % layout.devices:
        raise ValueError(
            f"{path} must be a multiple of {layout.devices}, the devices that share a batch, got {batch}"
        )


def init_layout(layout: Layout) -> Layout:
    """The layout that initial states are made in, before they are ``spread``: one device of a process.

    Matrix decompositions on several CPU devices at once wait for one another for ever (jaxlib 0.10.2).
    """
    return layout if jax.process_count() > 1 else dataclasses.replace(layout, devices=1)


def to_init_device(layout: Layout, tree: Any) -> Any:
    """Placed arrays on the devices of ``at_the_start``."""
    return tree if init_layout(layout) == layout else jax.device_put(tree, jax.devices()[0])


def shard_state(layout: Layout, state: Any) -> Any:
    """A state made in ``at_the_start`` on the layout's devices, where several processes have it already."""
    return (
        state
        if init_layout(layout) == layout
        else place(layout, jax.tree.map(_read, state), per_run=True)
    )


def _read(leaf: jax.Array) -> Any:
    """The numbers on the host: those on a device are cut by a program that is compiled for each shape."""
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)


def place(layout: Layout, tree: Any, *, per_run: bool) -> Any:
    """Puts arrays on the layout's devices: each run's with the run (axis 0 is M), or all of them everywhere."""
    return jax.device_put(tree, _sharding(layout, per_run))


def placed_shapes(layout: Layout, shapes: Any) -> Any:
    """Shapes with a runs axis as those of arrays that lie where the layout has them, for compiling ahead."""
    if layout.devices == 1:
        return shapes
    sharding = _sharding(layout, True)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
    )


def _mesh(layout: Layout) -> jax.sharding.Mesh:
    chosen = jax.devices()[: layout.devices]
    return jax.make_mesh(
        (layout.devices,), (layout.axis,), axis_types=(AxisType.Auto,), devices=chosen
    )


def _sharding(layout: Layout, per_run: bool) -> NamedSharding | None:
    """None for a single device: jax's own choice."""
    if layout.devices == 1:
        return None
    return NamedSharding(_mesh(layout), P("runs") if per_run and layout.axis == "runs" else P())
