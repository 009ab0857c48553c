"""Options of XLA's CPU compiler, as far as the installed version has them."""

import functools
from typing import Any

import jax

# XLA's CPU backend gives smaller convolutions to a library that uses one core; without it they use
# all.
ALL_CORES_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
# For a step that runs once: a fifth of the time to compile, and three to six times the time to run.
FAST_COMPILE_OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
}
# For what runs a few times: half the time to compile, and at most a tenth more time to run.
SHORT_COMPILE_OPTIONS = {
    "xla_backend_optimization_level": 1,
    "xla_cpu_use_fusion_emitters": False,
}


def select_known(options: dict[str, Any]) -> dict[str, Any]:
    """Those of some options that the compiler has; none where JAX does not compile for a CPU.

    XLA adds and removes options from version to version and refuses those that it does not have.
    Its answer is asked for once in a process.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in options.items() if _is_known(name, value)}


@functools.cache
def _is_known(name: str, value: Any) -> bool:
    """Whether the smallest program compiles with an option."""

    def smallest_program() -> int:
        return 0

    try:
        jax.jit(smallest_program, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
