"""How much memory the devices have, and how much runs need."""

import gc
from pathlib import Path
from typing import Any

import jax

from research.training.program import make_program

CGROUP = Path("/sys/fs/cgroup")
MAPS = Path("/proc/self/maps")
MOST_MAPS = Path("/proc/sys/vm/max_map_count")


def check_memory(total: int, devices: int) -> None:
    """Raises MemoryError where ``total`` bytes, an equal share on each of ``devices`` devices, are not free there."""
    free = memory_a_device(devices)
    if free is not None and total > free * devices:
        raise MemoryError(
            f"{total / 1e9:.2f} GB are needed on {devices} devices, {free * devices / 1e9:.2f} GB free"
        )


def memory_a_device(devices: int) -> int | None:
    """Bytes that each of ``devices`` devices can still give; on CPUs their share of the host's; None: unknown."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    if jax.default_backend() != "cpu":
        return None
    free = [
        amount for amount in (_available_here(), _left_to_the_container()) if amount is not None
    ]
    return min(free) // devices if free else None


def _available_here() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":") for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _left_to_the_container() -> int | None:
    try:
        most, used = (
            (CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current")
        )
    except OSError:
        return None
    return None if most == "max" else int(most) - int(used)


def release_programs() -> None:
    """Forgets compiled programs where they hold half of the memory maps that the system grants a process.

    Each has hundreds of them, and Linux ends a process that asks for more than some 65,000: a sweep over a hundred
    depths would not come to its end.
    """
    try:
        with MAPS.open("rb") as lines:
            held = sum(1 for _ in lines)
        most = int(MOST_MAPS.read_text())
    except OSError:  # no Linux, no such limit
        return
    if held > most / 2:
        make_program.cache_clear()
        jax.clear_caches()
        gc.unfreeze()
        gc.collect()


def needed(compiled: jax.stages.Compiled) -> int:
    """Bytes that a call of a compiled program takes on each device, its arguments among them; 0: unknown."""
    seen = compiled.memory_analysis()
    if seen is None:
        return 0
    return (
        seen.argument_size_in_bytes
        + seen.output_size_in_bytes
        + seen.temp_size_in_bytes
        - seen.alias_size_in_bytes
    )


def size(shapes: Any) -> int:
    """Bytes of a tree of arrays or shapes."""
    leaves = jax.tree.leaves(shapes)
    return sum(leaf.size * getattr(leaf.dtype, "itemsize", 4) for leaf in leaves)
