"""How much memory is free on the devices, and how much a program needs."""

import gc
from pathlib import Path
from typing import Any

import jax

from research.config.host_memory import format_bytes, free_host_bytes
from research.training.program import make_program

MAPS = Path("/proc/self/maps")
MAX_MAPS = Path("/proc/sys/vm/max_map_count")


def check_memory(
    num_bytes: int,
    num_devices: int,
    *,
    needed_for: str,
    settings: str,
) -> None:
    """Checks that an equal share of ``num_bytes`` is free on each of ``num_devices`` devices.

    Args:
        num_bytes: what is needed on all devices together.
        num_devices: the number of devices.
        needed_for: what needs the memory, for the message.
        settings: the settings to reduce, for the message.

    Raises:
        MemoryError: there is not enough free memory.
    """
    free = free_bytes_per_device(num_devices)
    if free is None:
        return
    free_in_all = free * num_devices
    if num_bytes > free_in_all:
        ratio = num_bytes / max(free_in_all, 1)
        raise MemoryError(
            f"{needed_for} needs {format_bytes(num_bytes)} and {format_bytes(free_in_all)} are "
            f"free; what is {ratio:.3g} times smaller would fit: reduce {settings}"
        )


def free_bytes_per_device(num_devices: int) -> int | None:
    """The free memory of each device in bytes; None where it is unknown.

    CPU devices share the memory of the host equally.
    """
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    if jax.default_backend() != "cpu":
        return None
    free = free_host_bytes()
    return None if free is None else free // num_devices


def release_programs() -> None:
    """Drops all compiled programs where they use half of the memory maps that Linux allows.

    Each program has hundreds of maps, and Linux kills a process that has more than some 65,000. A
    sweep over a hundred depths would not finish.
    """
    try:
        with MAPS.open("rb") as lines:
            num_maps = sum(1 for _ in lines)
        max_maps = int(MAX_MAPS.read_text(encoding="utf-8"))
    except OSError:  # not Linux, so there is no such limit
        return
    if num_maps > max_maps / 2:
        make_program.cache_clear()
        jax.clear_caches()
        gc.unfreeze()
        gc.collect()


def program_bytes(compiled: jax.stages.Compiled) -> int:
    """What a call of a compiled program needs on each device, arguments included; 0 if unknown."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def tree_bytes(shapes: Any) -> int:
    """The bytes of a tree of arrays or shapes."""
    total = 0
    for leaf in jax.tree.leaves(shapes):
        itemsize = getattr(leaf.dtype, "itemsize", 4)
        total += leaf.size * itemsize
    return total
