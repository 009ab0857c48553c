"""Marks of Flax NNX modules.

The loss gets a copy of the model in which each module knows its path, so the user's model stays as
it is. What the loss changes in the copy, such as batch statistics, is written to the model
afterwards, as ``nnx.value_and_grad`` does.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from research.watching.adapters import module_contexts, patched_calls
from research.watching.marks import call_between_marks, is_float_array
from research.watching.measuring import Loss, Measured

PATH = "_fathom_path"


def is_module(value: Any) -> bool:
    """Whether a value is an NNX module."""
    return isinstance(value, nnx.Module)


@dataclass(frozen=True)
class Differentiated:
    """Which part of which argument is differentiated.

    Attributes:
        position: the index of the argument.
        wrt: an NNX filter of its variables.
    """

    position: int
    wrt: Any = nnx.Param


def read_argnums(argnums: Any) -> Differentiated:
    """What ``argnums`` means for an NNX model: an index, or ``nnx.DiffState(index, filter)``."""
    if isinstance(argnums, nnx.DiffState):
        return Differentiated(argnums.argnum, argnums.filter)
    return Differentiated(argnums)


class ModelCall:
    """A call of a loss with NNX models among its arguments."""

    def __init__(
        self,
        function: Callable[..., tuple[Any, Any]],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        differentiated: Differentiated,
    ):
        """Takes the models apart.

        Args:
            function: returns the loss and its auxiliary output.
            args: its arguments.
            kwargs: its keyword arguments.
            differentiated: what is differentiated.
        """
        self._function = function
        self._args = list(args)
        self._kwargs = dict(kwargs)
        self._position = differentiated.position
        self._nodes = self._find_nodes()
        is_wanted = nnx.filterlib.to_predicate(differentiated.wrt)

        def is_differentiated(path: Any, value: Any) -> bool:
            return path[0] == 0 and is_wanted(path[1:], value)

        self._is_differentiated = is_differentiated
        graph, params, others = nnx.split(self._nodes, is_differentiated, ...)
        self._graph = graph
        self._params = params
        self._others = others

    def _find_nodes(self) -> tuple[Any, ...]:
        """The NNX objects among the arguments, first the one that is differentiated."""
        nodes = [self._args[self._position]]
        for index, value in enumerate(self._args):
            if index != self._position and isinstance(value, nnx.Pytree):
                nodes.append(value)
        nodes += [value for value in self._kwargs.values() if isinstance(value, nnx.Pytree)]
        return tuple(nodes)

    @property
    def model(self) -> nnx.Module:
        """The model that is differentiated."""
        return self._nodes[0]

    def loss(self) -> Loss:
        """The loss as a pure function of the states of the models."""
        classes = {type(module) for _, module in nnx.iter_modules(self.model)}
        contexts = [*module_contexts(), functools.partial(_marking, classes)]
        return Loss(self._call, self._params, self._others, contexts, path_start=1)

    def _call(self, params: Any, others: Any) -> tuple[Any, Any]:
        copies = nnx.merge(self._graph, params, others)
        _name_modules(copies[0])
        remaining = iter(copies[1:])
        args = []
        for index, value in enumerate(self._args):
            if index == self._position:
                args.append(copies[0])
            else:
                args.append(next(remaining) if isinstance(value, nnx.Pytree) else value)
        kwargs = {}
        for name, value in self._kwargs.items():
            kwargs[name] = next(remaining) if isinstance(value, nnx.Pytree) else value
        value, aux = self._function(*args, **kwargs)
        _, _, changed = nnx.split(copies, self._is_differentiated, ...)
        return value, (aux, _known_part(changed, others))

    def finish(self, measured: Measured) -> tuple[Any, Any, Any]:
        """Writes what the loss has changed to the models.

        Returns:
            The loss, its auxiliary output, and the gradient as a state of the model.
        """
        aux, changed = measured.aux
        nnx.update(self._nodes, changed)
        return measured.value, aux, measured.grads[0]


def _known_part(state: nnx.State, known: nnx.State) -> nnx.State:
    """The variables of a state that another one has too; a loss may create variables."""
    paths = {path for path, _ in nnx.to_flat_state(known)}
    kept = [(path, value) for path, value in nnx.to_flat_state(state) if path in paths]
    return nnx.from_flat_state(kept)


def _name_modules(model: nnx.Module) -> None:
    for path, module in nnx.iter_modules(model):
        if path:
            setattr(module, PATH, "/".join(map(str, path)))


def _marking(classes: set[type]) -> AbstractContextManager:
    return patched_calls(classes, _call_module)


def _call_module(
    method: Callable[..., Any],
    module: nnx.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    bound = functools.partial(method, module)
    name = getattr(module, PATH, None)
    if name is None:
        return bound(*args, **kwargs)
    parameters = [leaf for leaf in jax.tree.leaves(module) if is_float_array(leaf)]
    return call_between_marks(
        bound,
        args,
        kwargs,
        name=name,
        kind=type(module).__name__,
        parameters=parameters,
    )
