"""Marks of Flax Linen modules."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax

from research.watching.marks import call_between_marks, is_float_array


def marking_linen() -> AbstractContextManager:
    """While the context lasts, modules put marks at their first argument and their output."""
    return nn.intercept_methods(_intercept)


def _intercept(
    method: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:
    module = context.module
    if context.method_name != "__call__" or module.scope is None or not module.path:
        return method(*args, **kwargs)
    return call_between_marks(
        method,
        args,
        kwargs,
        name="/".join(module.path),
        kind=type(module).__name__,
        parameters=_parameters(module),
    )


def _parameters(module: nn.Module) -> list[Any]:
    params = module.variables.get("params", {})
    return [leaf for leaf in jax.tree.leaves(params) if is_float_array(leaf)]
