"""``fathom.watch``: ``jax.value_and_grad`` that also measures every layer."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.core import Tracer

from research.config.arguments import check_function, check_positive, check_whole, short_repr
from research.watching.adapters import is_imported, module_contexts
from research.watching.gauges import (
    Gauges,
    add_exponents,
    add_updates,
    find_largest,
    merge_gauges,
)
from research.watching.layers import LayerTable
from research.watching.marks import describe, is_float_array
from research.watching.measuring import (
    Loss,
    check_differentiable,
    measure_loss,
    plan_measurement,
    trace,
)
from research.watching.selection import AUTO, Select


@dataclass(frozen=True)
class Watch:
    """Which layers are measured. Made by ``fathom.watch``.

    Attributes:
        select: which layers.
        depth: the number of entries of their paths; None for any.
    """

    select: Select = AUTO
    depth: int | None = None

    def value_and_grad(
        self,
        fun: Callable[..., Any],
        argnums: Any = 0,
        has_aux: bool = False,
        *,
        measure: bool = True,
        loss_scale: Any = None,
    ) -> Callable[..., tuple[Any, Any, Any]]:
        """As ``jax.value_and_grad``, but the function also returns the gauges of the layers.

        The first argument may be a tree of arrays, such as the parameters of a Linen or Haiku
        model, or a model of NNX or Equinox. Then the gradient is what ``nnx.value_and_grad`` or
        ``equinox.filter_value_and_grad`` returns. Call it inside a function that ``jit`` compiles.

        Args:
            fun: the loss, a function that returns a number.
            argnums: which argument is differentiated: an index, or for an NNX model
                ``nnx.DiffState(index, filter)``.
            has_aux: whether ``fun`` returns a pair of the loss and an auxiliary output.
            measure: False for a step that does not measure. It is the step of
                ``jax.value_and_grad``, and its gauges are None. The value must be known when the
                step is compiled: ``jax.jit(step, static_argnames="measure")``.
            loss_scale: a factor that the loss contains. It is divided out of the gauges; the
                gradient is returned as it is.

        Returns:
            A function with the arguments of ``fun`` that returns the loss (with ``has_aux`` a pair
            of the loss and the auxiliary output), the gradient and the gauges.

        Raises:
            TypeError: an argument cannot be used.
            ValueError: nothing can be measured, or what was selected cannot; when it is called.
        """
        check_function("fun", fun)
        if isinstance(loss_scale, int | float):
            check_positive("loss_scale", loss_scale, "1024")
        if not isinstance(measure, bool):
            raise TypeError(
                f"measure must be True or False, got {_describe(measure)}: compile the step with "
                'jax.jit(step, static_argnames="measure") and pass the result of Monitor.due'
            )

        @functools.wraps(fun)
        def run(*args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
            call = _Call(fun, args, kwargs, argnums, has_aux)
            if not measure:
                value, grads = call.differentiate()
                return value, grads, None
            return call.measure(self, loss_scale)

        return run

    def layers(
        self,
        fun: Callable[..., Any],
        *args: Any,
        argnums: Any = 0,
        has_aux: bool = False,
        **kwargs: Any,
    ) -> LayerTable:
        """The layers that would be measured. The loss is traced, but nothing is computed.

        ``print`` the result for a table.

        Args:
            fun: the loss.
            *args: its arguments; arrays may be ``jax.ShapeDtypeStruct``.
            argnums: as for ``value_and_grad``.
            has_aux: as for ``value_and_grad``.
            **kwargs: its keyword arguments.

        Raises:
            ValueError: nothing can be measured, or what was selected cannot.
        """
        check_function("fun", fun)
        loss = _Call(fun, args, kwargs, argnums, has_aux).loss()
        return plan_measurement(trace(loss), self.select, self.depth).table

    def updates(
        self,
        gauges: Gauges | None,
        before: Any,
        after: Any,
    ) -> Gauges | None:
        """Adds ``weight_norm``, ``update_norm`` and ``update_ratio`` of each layer.

        Args:
            gauges: what was measured at the step; with None nothing is measured.
            before: the parameters before the update, as they were differentiated. For an NNX model
                ``nnx.state(model, nnx.Param)``, for an Equinox model the model.
            after: the parameters after the update.

        Returns:
            The gauges, or None.
        """
        if gauges is None:
            return None
        return add_updates(gauges, _float_leaves(before), _float_leaves(after))

    def exponents(
        self,
        gauges: Gauges | None,
        grads: Any,
    ) -> Gauges | None:
        """Adds ``grad_exponent``, ``grad_zero``, ``grad_subnormal`` and ``grad_nonfinite``.

        They are counted from the bits of each layer's gradient, so they say what the number format
        does to it. Counting reads every element of the gradient and takes longer than a norm.

        Args:
            gauges: what was measured at the step; with None nothing is counted.
            grads: the gradient that ``value_and_grad`` returned, before any loss scale is divided
                out.

        Returns:
            The gauges, or None.
        """
        if gauges is None:
            return None
        return add_exponents(gauges, _float_leaves(grads))

    def merge(
        self,
        parts: Gauges | Sequence[Gauges],
        grads: Any,
    ) -> Gauges:
        """The gauges of a batch that was differentiated in parts.

        The loss of the batch is the mean of the losses of the parts.

        Args:
            parts: the gauges of the parts: a list, or stacked on a leading axis by ``lax.scan``.
            grads: the mean of their gradients.
        """
        stacked = parts if isinstance(parts, Gauges) else jax.tree.map(_stack, *parts)
        return merge_gauges(stacked, _float_leaves(grads), len(stacked.sums))


def watch(select: Select = AUTO, depth: int | None = None) -> Watch:
    """Measures the layers of anybody's JAX model, in anybody's training loop.

    >>> import jax, jax.numpy as jnp, fathom
    >>> def loss(params, x):
    ...     for n, w in enumerate(params):
    ...         x = fathom.tap(jnp.tanh(x @ w), f"layer/{n}", params=w)
    ...     return jnp.mean(x**2)
    >>> params = [jnp.eye(3)] * 4
    >>> watch = fathom.watch()
    >>> value, grads, gauges = jax.jit(watch.value_and_grad(loss))(params, jnp.ones((2, 3)))
    >>> gauges["grad_norm"].shape
    (4,)

    Args:
        select: which layers: ``auto`` for the stacks of equal layers that hold most of the
            parameters; ``all``; a glob of paths such as ``blocks/*``, or a list of them; a class
            of modules; or a function that receives a layer (``name``, ``kind``, ``shape``,
            ``dtype``, ``parameters``, ``loops``) and says whether it is measured.
        depth: measures only layers whose path has so many entries.

    Raises:
        TypeError: an argument is none of these.
        ValueError: the depth is less than 1.
    """
    is_list = isinstance(select, list | tuple) and all(isinstance(each, str) for each in select)
    if not is_list and not isinstance(select, str) and not callable(select):
        raise TypeError(
            "select must be 'auto', 'all', a glob of paths or a list of them, a class of modules, "
            f"or a function, got {short_repr(select)}"
        )
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int)):
        raise TypeError(f"depth must be a whole number or None, got {short_repr(depth)}")
    if depth is not None:
        check_whole("depth", depth, least=1)
    return Watch(select, depth)


def check_chance_loss(value: Any) -> None:
    """Refuses a loss of chance that is no positive number.

    Raises:
        ValueError: it is something else.
    """
    check_positive("chance_loss", value, "math.log(10) for ten classes")


class _Call:
    """A call of a loss with its arguments."""

    def __init__(
        self,
        fun: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        argnums: Any,
        has_aux: bool,
    ):
        self._fun = fun
        self._args = list(args)
        self._kwargs = kwargs
        self._argnums = argnums
        self._has_aux = has_aux
        self._nnx_call: Any = None
        self._position = argnums
        if is_imported("flax.nnx"):
            from research.watching.adapters.nnx import read_argnums

            self._position = read_argnums(argnums).position
        if not isinstance(self._position, int) or isinstance(self._position, bool):
            raise TypeError(f"argnums must be one index, got {short_repr(argnums)}")
        if not -len(args) <= self._position < len(args):
            raise ValueError(f"argnums={argnums} needs more than the {len(args)} arguments")
        self._position %= len(args)

    @property
    def _model(self) -> Any:
        return self._args[self._position]

    def _is_nnx(self) -> bool:
        if not is_imported("flax.nnx"):
            return False
        from research.watching.adapters.nnx import is_module

        return is_module(self._model)

    def _with_aux(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        out = self._fun(*args, **kwargs)
        if not self._has_aux:
            _check_loss(out)
            return out, None
        if not isinstance(out, tuple) or len(out) != 2:
            raise TypeError(f"with has_aux=True the loss must return a pair, got {_describe(out)}")
        _check_loss(out[0])
        return out

    def _with_model(self, model: Any) -> tuple[Any, Any]:
        args = list(self._args)
        args[self._position] = model
        return self._with_aux(*args, **self._kwargs)

    def loss(self) -> Loss:
        """The loss as a pure function."""
        if self._is_nnx():
            from research.watching.adapters.nnx import ModelCall, read_argnums

            self._nnx_call = ModelCall(
                self._with_aux,
                self._args,
                self._kwargs,
                read_argnums(self._argnums),
            )
            return self._nnx_call.loss()
        if _is_equinox_module(self._model):
            from research.watching.adapters.equinox import make_loss

            return make_loss(self._with_model, self._model)

        def pure(params: Any, others: Any) -> tuple[Any, Any]:
            del others
            return self._with_model(params)

        for path, leaf in jax.tree_util.tree_leaves_with_path(self._model):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            check_differentiable(leaf, name or f"argument {self._position}")
        return Loss(pure, self._model, contexts=module_contexts())

    def differentiate(self) -> tuple[Any, Any]:
        """What the library's own function returns, without any measurement."""
        if self._is_nnx():
            from flax import nnx

            differentiate = nnx.value_and_grad(
                self._fun, argnums=self._argnums, has_aux=self._has_aux
            )
        elif _is_equinox_module(self._model):
            from research.watching.adapters.equinox import value_and_grad

            differentiate = value_and_grad(self._with_model)
            (value, aux), grads = differentiate(self._model)
            return (value, aux) if self._has_aux else value, grads
        else:
            differentiate = jax.value_and_grad(
                self._fun, argnums=self._position, has_aux=self._has_aux
            )
        return differentiate(*self._args, **self._kwargs)

    def measure(self, watch: Watch, loss_scale: Any) -> tuple[Any, Any, Gauges]:
        """The loss, the gradient and the gauges."""
        measured = measure_loss(
            self.loss(),
            select=watch.select,
            depth=watch.depth,
            loss_scale=loss_scale,
        )
        value = measured.value
        aux = measured.aux
        grads = measured.grads
        if self._nnx_call is not None:
            value, aux, grads = self._nnx_call.finish(measured)
        others = [arg for place, arg in enumerate(self._args) if place != self._position]
        largest = find_largest((others, self._kwargs))
        gauges = dataclasses.replace(measured.gauges, largest_input=largest)
        return (value, aux) if self._has_aux else value, grads, gauges


def _float_leaves(tree: Any) -> list[Any]:
    """The leaves of a tree of parameters that are differentiated, as arrays.

    JAX differentiates Python floats too. In an Equinox module they are settings, such as the rate
    of dropout.
    """
    has_settings = _is_equinox_module(tree)
    leaves = []
    for leaf in jax.tree.leaves(tree):
        if is_float_array(leaf):
            leaves.append(leaf)
        elif isinstance(leaf, float) and not has_settings:
            leaves.append(jax.numpy.asarray(leaf))
    return leaves


def _is_equinox_module(value: Any) -> bool:
    if not is_imported("equinox"):
        return False
    from research.watching.adapters.equinox import is_module

    return is_module(value)


def _check_loss(value: Any) -> None:
    """Refuses a loss that is not one number.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, tuple | list | dict):
        raise TypeError(
            f"the loss must return one number, got {_describe(value)}: has_aux=True lets it return "
            "a pair of the number and anything else"
        )
    if getattr(value, "shape", ()) != ():
        raise TypeError(f"the loss must return one number, got {describe(value)}")


def _stack(*values: Any) -> Any:
    return jax.numpy.stack(values)


def _describe(value: Any) -> str:
    if isinstance(value, Tracer):
        return "a traced value"
    return f"a {type(value).__name__}"
