"""How much memory is free on this machine. No jax."""

from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMORY_INFO = Path("/proc/meminfo")


def free_host_bytes() -> int | None:
    """The free memory of the host, or of its container if that is less; None where unknown."""
    amounts = (_free_bytes_of_host(), _free_bytes_of_container())
    known = [amount for amount in amounts if amount is not None]
    return min(known) if known else None


def _free_bytes_of_host() -> int | None:
    try:
        text = MEMORY_INFO.read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _free_bytes_of_container() -> int | None:
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="utf-8").strip()
        used = (CGROUP / "memory.current").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return None if limit == "max" else int(limit) - int(used)


def format_bytes(num_bytes: float) -> str:
    """A number of bytes in words.

    >>> format_bytes(1.5e9)
    '1.5 GB'
    """
    return f"{num_bytes / 1e9:.3g} GB"
