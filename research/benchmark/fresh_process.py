"""Calls a function in a new Python process, which has compiled nothing yet."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

HIDDEN_VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "WANDB_DIR", "WANDB_MODE")


def make_environment(**variables: str) -> dict[str, str]:
    """The environment of this process without what would change a measurement, plus variables."""
    environment = {}
    for name, value in os.environ.items():
        if name not in HIDDEN_VARIABLES:
            environment[name] = value
    return environment | variables


def iterate_in_fresh_process(function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator:
    """Yields what a generator function yields in a new process without a compilation cache.

    Args:
        function: A generator function of a module; JSON must be able to hold what it yields.
        *arguments: Its arguments, which ``repr`` must write as Python code.

    Raises:
        RuntimeError: the process failed; its messages are on the standard error stream.
    """
    code = (
        f"import json, {function.__module__} as module\n"
        f"for value in module.{function.__name__}(*{arguments!r}):\n"
        "    print(json.dumps(value), flush=True)"
    )
    environment = make_environment(JAX_ENABLE_COMPILATION_CACHE="false")
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as child:
        assert child.stdout
        for line in child.stdout:
            yield json.loads(line)
    if child.returncode:
        call = f"{function.__name__}{arguments!r}"
        raise RuntimeError(f"the process for {call} ended with code {child.returncode}")


def call_in_fresh_process(function: Callable[..., Iterator[Any]], *arguments: Any) -> Any:
    """The only value that a generator function yields in a new process."""
    (value,) = iterate_in_fresh_process(function, *arguments)
    return value
