"""Starts JAX on the devices that the user's environment asks for. Does not import jax at its top.

The compiler ends the process where it cannot read ``XLA_FLAGS``, so it is asked in another one.
"""

import functools
import os
import re
import subprocess
import sys

from research.records.jax_settings import read_flags

# What JAX reads from the environment when it looks for devices.
DEVICE_VARIABLES = (
    "JAX_PLATFORMS",
    "JAX_PLATFORM_NAME",
    "JAX_NUM_CPU_DEVICES",
    "JAX_CUDA_VISIBLE_DEVICES",
    "XLA_FLAGS",
)
MAX_CPU_DEVICES = 1024  # JAX starts a thread for each, and does not come back from 100,000
UNSET = -1
COUNT_FLAG = "--xla_force_host_platform_device_count"
READ_COMPILER_FLAGS = """
from jaxlib import xla_client
xla_client.CompileOptions()
"""


def check_devices() -> None:
    """Starts JAX on its devices.

    Raises:
        ValueError: JAX finds no device under what the user's environment asks for.
    """
    import jax

    check_compiler_flags()
    number = getattr(jax.config, "jax_num_cpu_devices", UNSET)
    if number != UNSET:
        _check_number("JAX_NUM_CPU_DEVICES", number)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        variables = [name for name in DEVICE_VARIABLES if os.environ.get(name)]
        if not variables:
            raise
        reason = str(error).split("\n")[0]
        detail = f" ({reason})" if reason else ""
        settings = " ".join(f"{name}={os.environ[name]}" for name in variables)
        alternative = ", or set JAX_PLATFORMS=cpu" if "JAX_PLATFORMS" in variables else ""
        raise ValueError(
            f"JAX finds no device for {settings}{detail}: unset it{alternative}"
        ) from error


def check_compiler_flags() -> None:
    """Checks that the compiler can read ``XLA_FLAGS``, before it is asked in this process.

    Raises:
        ValueError: it cannot.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if not flags.strip():
        return
    fault = _find_fault(flags)
    if fault:
        raise ValueError(f"XLA_FLAGS: {fault}; correct or unset it")
    counts = re.findall(rf"{COUNT_FLAG}=(-?\d+)", read_flags(flags))
    if counts:
        _check_number(COUNT_FLAG, int(counts[-1]))


def _check_number(name: str, number: int) -> None:
    if not 1 <= number <= MAX_CPU_DEVICES:
        raise ValueError(f"{name} must be from 1 to {MAX_CPU_DEVICES}, got {number}")


@functools.cache
def _find_fault(flags: str) -> str:
    """What the compiler finds wrong with the flags, in its words; empty if nothing.

    Args:
        flags: the content of ``XLA_FLAGS``, which the other process inherits.
    """
    child = subprocess.run(
        [sys.executable, "-c", READ_COMPILER_FLAGS],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if child.returncode == 0:
        return ""
    complaint = re.search(r"^[EF]\d{4} .*?\] (.*?)\.?$", child.stderr, re.MULTILINE)
    if complaint is None:
        return ""
    words = complaint.group(1).replace(" in XLA_FLAGS", "")
    return f"the compiler cannot read {flags}" if words.startswith("Check failed") else words
