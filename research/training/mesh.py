"""How many runs share the hardware: a mesh axis ``runs`` over the devices, and several runs on each device."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P


@dataclasses.dataclass(frozen=True)
class Layout:
    """How M runs are spread: over ``devices``, of which M is a multiple, and ``within`` each of them.

    ``map`` takes the runs of a device one after the other, each exactly as it would be alone; ``vmap`` takes them
    together, which a wide device needs to be kept busy, and rounds differently.
    """

    within: str = "map"
    devices: int = 1


ALONE = Layout()


def make_layout(runs: int, *, within: str = "auto", devices: int | None = None) -> Layout:
    """The layout of ``runs`` runs on at most ``devices`` devices, None for all; ``auto`` is ``map`` on CPUs."""
    if within == "auto":
        within = "map" if jax.default_backend() == "cpu" else "vmap"
    return Layout(within, min(devices or jax.device_count(), jax.device_count(), runs))


def over_runs(layout: Layout, function: Callable, *, own: int, shared: int = 0) -> Callable:
    """``function`` of one run as one of M: ``own`` arguments gain a leading runs axis, then ``shared`` ones do not."""

    def runs(*arguments: Any) -> Any:
        members, rest = arguments[:own], arguments[own:]
        if layout.within == "vmap":
            return jax.vmap(lambda *member: function(*member, *rest))(*members)
        return lax.map(lambda member: function(*member, *rest), members)

    if layout.devices == 1:
        return runs
    specs = (P("runs"),) * own + (P(),) * shared
    return jax.shard_map(runs, mesh=_mesh(layout), in_specs=specs, out_specs=P("runs"), check_vma=False)


def place(layout: Layout, tree: Any, *, per_run: bool) -> Any:
    """Puts arrays on the layout's devices: each run's with the run (axis 0 is M), or all of them everywhere."""
    return jax.device_put(tree, _sharding(layout, per_run))


def placed_shapes(layout: Layout, shapes: Any) -> Any:
    """Shapes with a runs axis as those of arrays that lie where the layout has them, for compiling ahead."""
    if layout.devices == 1:
        return shapes
    sharding = _sharding(layout, True)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def _mesh(layout: Layout) -> jax.sharding.Mesh:
    chosen = jax.devices()[: layout.devices]
    return jax.make_mesh((layout.devices,), ("runs",), axis_types=(AxisType.Auto,), devices=chosen)


def _sharding(layout: Layout, per_run: bool) -> NamedSharding | None:
    """None for a single device: jax's own choice."""
    return None if layout.devices == 1 else NamedSharding(_mesh(layout), P("runs") if per_run else P())
