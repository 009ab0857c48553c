"""Settings of JAX and XLA that random numbers and rounding depend on. No jax until they are read.

They are no part of a run's configuration: the environment holds them, or ``jax.config``. A run that
resumes under others would go on with other numbers than it began with.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.records.runs import JsonObject

# By their names in ``jax.config``; the environment has them in capitals.
JAX_FLAGS = (
    "eager_constant_folding",
    "jax_accurate_erf_inv",
    "jax_allow_f16_reductions",
    "jax_compiler_enable_remat_pass",
    "jax_custom_jvp3",
    "jax_custom_vjp3",
    "jax_default_dtype_bits",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_disable_jit",
    "jax_disable_most_optimizations",
    "jax_enable_x64",
    "jax_exec_time_optimization_effort",
    "jax_explicit_x64_dtypes",
    "jax_high_dynamic_range_gumbel",
    "jax_memory_fitting_effort",
    "jax_memory_fitting_level",
    "jax_optimization_level",
    "jax_ragged_dot_use_ragged_dot_instruction",
    "jax_random_seed_offset",
    "jax_remat3",
    "jax_scan3",
    "jax_softmax_custom_jvp",
    "jax_threefry_gpu_kernel_lowering",
    "jax_threefry_partitionable",
    "jax_use_direct_linearize",
    "jax_use_hlo_logistic_lowering",
    "jax_use_magma",
    "jax_use_rgv3",
    "jax_use_shardy_partitioner",
    "jax_use_simplified_jaxpr_constants",
    "jax_xla_profile_version",
)
RANDOM_FLAGS = (
    "jax_default_prng_impl",
    "jax_high_dynamic_range_gumbel",
    "jax_random_seed_offset",
    "jax_threefry_partitionable",
)
COMPILER_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
OTHER_VARIABLES = ("NVIDIA_TF32_OVERRIDE",)
# Flags of the compiler that say where files are and how many devices there are.
WITHOUT_EFFECT = (
    "--xla_dump_",
    "--xla_force_host_platform_device_count",
    "--xla_gpu_cuda_data_dir",
)
UNSET = "not set"


def read_jax_settings() -> JsonObject:
    """The settings of this process by the names that they have in the environment."""
    import jax

    settings: JsonObject = {}
    for flag in JAX_FLAGS:
        if hasattr(jax.config, flag):  # each version of JAX has some of them
            settings[flag.upper()] = _to_plain(getattr(jax.config, flag))
    for name in COMPILER_VARIABLES:
        settings[name] = _compiler_flags(os.environ.get(name, ""))
    for name in OTHER_VARIABLES:
        settings[name] = os.environ.get(name)
    return settings


def read_random_settings() -> tuple[Any, ...]:
    """The values of those that random numbers depend on."""
    import jax

    return tuple(_to_plain(getattr(jax.config, flag, None)) for flag in RANDOM_FLAGS)


def describe_changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings that differ, in words; empty if none does.

    A setting that only one version of JAX has is no difference.

    >>> describe_changed_settings({"JAX_ENABLE_X64": False}, {"JAX_ENABLE_X64": True})
    'JAX_ENABLE_X64 was False, is True'
    """
    changes = []
    for name, value in now.items():
        if name in before and before[name] != value:
            was = _describe(before[name])
            changes.append(f"{name} was {was}, is {_describe(value)}")
    return ", ".join(changes)


def _describe(value: Any) -> str:
    return UNSET if value in (None, "") else str(value)


def _to_plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _compiler_flags(text: str) -> str:
    """The flags that may change numbers, by name; of two of one name the last one counts."""
    flags = [flag for flag in read_flags(text).split() if not flag.startswith(WITHOUT_EFFECT)]
    return " ".join(sorted(flags, key=_flag_name))


def _flag_name(flag: str) -> str:
    return flag.partition("=")[0]


def read_flags(text: str) -> str:
    """The flags in a variable. XLA takes what begins with no dash for a file that holds them."""
    if not text.strip() or text.lstrip().startswith("-"):
        return text
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return text
