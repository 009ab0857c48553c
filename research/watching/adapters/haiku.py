"""Marks of Haiku modules."""

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax

from research.watching.marks import call_between_marks, is_float_array

hk: Any = importlib.import_module("haiku")


def marking_haiku() -> AbstractContextManager:
    """While the context lasts, modules put marks at their first argument and their output."""
    return hk.intercept_methods(_intercept)


def _intercept(
    method: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Any,
) -> Any:
    if context.method_name != "__call__":
        return method(*args, **kwargs)
    module = context.module
    params = module.params_dict()
    return call_between_marks(
        method,
        args,
        kwargs,
        name=_path(module.module_name),
        kind=type(module).__name__,
        parameters=[leaf for leaf in jax.tree.leaves(params) if is_float_array(leaf)],
    )


def _path(module_name: str) -> str:
    """``mlp/~/linear_0`` without the marks of methods that created modules."""
    segments = [segment for segment in module_name.split("/") if not segment.startswith("~")]
    return "/".join(segments)
