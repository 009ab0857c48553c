"""How M runs are laid out on the devices: split by run, or each batch split by example.

Along the mesh axis ``runs`` every device trains whole runs. Along the mesh axis ``batch`` every
device holds all weights, state and data, and trains on its share of each batch. Splitting a batch
does not change the run: losses, gradients, statistics and gauges are reduced over all devices and
equal those of a single device up to rounding.
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

from research.parallel.collectives import AXIS


@dataclasses.dataclass(frozen=True)
class Layout:
    """How M runs are laid out on devices.

    Attributes:
        map_mode: how one device trains several runs. ``map`` trains them one after the other, and
            each gives exactly the numbers of the run alone. ``vmap`` trains them at once, which
            keeps an accelerator busy but rounds differently.
        devices: the number of devices.
        axis: the mesh axis. Along ``runs`` each device trains M / ``devices`` runs; along
            ``batch`` the devices split every batch of every run.
    """

    map_mode: str = "map"
    devices: int = 1
    axis: str = "runs"

    @property
    def num_run_shards(self) -> int:
        """The number of devices that the runs are split over."""
        return self.devices if self.axis == "runs" else 1


SINGLE_DEVICE = Layout()


def make_layout(
    num_runs: int,
    *,
    kind: str = "auto",
    map_mode: str = "auto",
    devices: int | None = None,
) -> Layout:
    """The layout of ``num_runs`` runs.

    Args:
        num_runs: the number of runs M.
        kind: the option of the configuration group ``mesh``. ``auto`` splits the runs over the
            devices, ``single`` uses one device, ``data_parallel`` and ``distributed`` split each
            batch over all devices of all processes.
        map_mode: as in ``Layout``; ``auto`` is ``map`` on CPUs and ``vmap`` elsewhere.
        devices: the largest number of devices to use; None for all.
    """
    num_devices = jax.device_count()
    if kind in ("data_parallel", "distributed"):
        return Layout("map", num_devices, "batch")
    if kind == "single":
        devices = 1
    if map_mode == "auto":
        map_mode = "map" if jax.default_backend() == "cpu" else "vmap"
    return Layout(map_mode, min(devices or num_devices, num_devices, num_runs))


def map_runs(
    layout: Layout,
    function: Callable,
    *,
    num_mapped: int,
    num_broadcast: int = 0,
) -> Callable:
    """Turns a function of one run into a function of M runs.

    Args:
        layout: how the runs are laid out.
        function: a function of one run.
        num_mapped: how many leading arguments gain a leading runs axis, as do all results.
        num_broadcast: how many further arguments are the same for all runs.
    """

    def map_local_runs(*arguments: Any) -> Any:
        mapped = arguments[:num_mapped]
        broadcast = arguments[num_mapped:]

        def call_one(*run_arguments: Any) -> Any:
            return function(*run_arguments, *broadcast)

        if layout.map_mode == "vmap":
            return jax.vmap(call_one)(*mapped)
        return lax.map(lambda run_arguments: call_one(*run_arguments), mapped)

    if layout.devices == 1:
        return map_local_runs
    per_run = P("runs") if layout.axis == "runs" else P()
    in_specs = (per_run,) * num_mapped + (P(),) * num_broadcast
    return jax.shard_map(
        map_local_runs,
        mesh=_make_mesh(layout),
        in_specs=in_specs,
        out_specs=per_run,
        check_vma=False,
    )


def replicated(layout: Layout) -> Layout:
    """The layout for work on whole batches, which devices that share a batch each do by themselves.

    All arrays already lie on every one of these devices.
    """
    if layout.axis == AXIS:
        return dataclasses.replace(layout, devices=1)
    return layout


def check_split(
    layout: Layout,
    batch_size: int,
    path: str,
) -> None:
    """Checks that the devices can share a batch equally.

    Args:
        layout: how the runs are laid out.
        batch_size: the number of examples in a batch.
        path: the setting that decides the batch size, for the message.

    Raises:
        ValueError: the batch size is not a multiple of the number of devices.
    """
    if layout.axis == AXIS and batch_size % layout.devices:
        raise ValueError(
            f"{path} must be a multiple of {layout.devices}, "
            f"the number of devices that share a batch, got {batch_size}"
        )


def init_layout(layout: Layout) -> Layout:
    """The layout in which initial states are made: a single device of the process.

    Matrix decompositions that run on several CPU devices at once deadlock (jaxlib 0.10.2). With
    several processes each has its own devices, so the layout stays as it is.
    """
    if jax.process_count() > 1:
        return layout
    return dataclasses.replace(layout, devices=1)


def to_init_device(layout: Layout, tree: Any) -> Any:
    """Copies arrays to the device of ``init_layout``."""
    if init_layout(layout) == layout:
        return tree
    return jax.device_put(tree, jax.devices()[0])


def shard_state(layout: Layout, state: Any) -> Any:
    """Copies a state made in ``init_layout`` to the devices of the layout."""
    if init_layout(layout) == layout:
        return state
    return place_on_devices(layout, jax.tree.map(_to_host, state), per_run=True)


def _to_host(leaf: jax.Array) -> Any:
    """Fetches an array: resharding it on the device would compile a program for each shape."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return np.asarray(leaf)


def place_on_devices(
    layout: Layout,
    tree: Any,
    *,
    per_run: bool,
) -> Any:
    """Puts arrays on the devices of the layout.

    Args:
        layout: how the runs are laid out.
        tree: arrays.
        per_run: whether axis 0 is the runs axis, which is split along with the runs. Otherwise
            every device gets a full copy.
    """
    return jax.device_put(tree, _sharding(layout, per_run))


def placed_shapes(layout: Layout, shapes: Any) -> Any:
    """Adds the layout's sharding to shapes with a leading runs axis, to compile ahead of time."""
    if layout.devices == 1:
        return shapes
    sharding = _sharding(layout, per_run=True)

    def place_shape(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place_shape, shapes)


def _make_mesh(layout: Layout) -> jax.sharding.Mesh:
    return jax.make_mesh(
        (layout.devices,),
        (layout.axis,),
        axis_types=(AxisType.Auto,),
        devices=jax.devices()[: layout.devices],
    )


def _sharding(layout: Layout, per_run: bool) -> NamedSharding | None:
    """The sharding of arrays; None lets JAX choose, where there is a single device."""
    if layout.devices == 1:
        return None
    is_split = per_run and layout.axis == "runs"
    return NamedSharding(_make_mesh(layout), P("runs") if is_split else P())
