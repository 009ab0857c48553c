"""Marks of Equinox modules.

A module does not know its path. It follows from where its first parameter is in the model.
"""

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax

from research.watching.adapters import patched_calls
from research.watching.marks import call_between_marks, is_float_array
from research.watching.measuring import Loss

eqx: Any = importlib.import_module("equinox")


def is_module(value: Any) -> bool:
    """Whether a value is an Equinox module."""
    return isinstance(value, eqx.Module)


def value_and_grad(function: Callable[[Any], tuple[Any, Any]]) -> Callable[[Any], Any]:
    """Equinox's own function, for a loss with an auxiliary output."""
    return eqx.filter_value_and_grad(function, has_aux=True)


def make_loss(function: Callable[[Any], tuple[Any, Any]], model: Any) -> Loss:
    """A loss as a function of the floating-point arrays of a model.

    Args:
        function: maps a model to the loss and its auxiliary output.
        model: the model.
    """
    params, rest = eqx.partition(model, eqx.is_inexact_array)

    def pure(params: Any, others: Any) -> tuple[Any, Any]:
        del others
        return function(eqx.combine(params, rest))

    classes = set(map(type, _iter_modules(model)))
    return Loss(pure, params, contexts=[functools.partial(_marking, classes)])


def _marking(classes: set[type]) -> AbstractContextManager:
    return patched_calls(classes, _call)


def _call(
    method: Callable[..., Any],
    module: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    bound = functools.partial(method, module)
    parameters = []
    depth = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(module):
        if is_float_array(leaf):
            depth = depth or len(path)
            parameters.append(leaf)
    if not parameters:
        return bound(*args, **kwargs)
    return call_between_marks(
        bound,
        args,
        kwargs,
        name=None,
        kind=type(module).__name__,
        parameters=parameters,
        depth=depth,
    )


def _iter_modules(model: Any) -> Iterator[Any]:
    """A module and all modules in it."""

    def is_inner(value: Any) -> bool:
        return is_module(value) and value is not model

    yield model
    for value in jax.tree.leaves(model, is_leaf=is_inner):
        if is_module(value):
            yield from _iter_modules(value)
