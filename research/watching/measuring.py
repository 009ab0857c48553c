"""Differentiates a loss and measures its layers on the way."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr
from jaxtyping import Array

from research.config.arguments import short_repr
from research.watching.discovery import Discovery, Leaf, Loop
from research.watching.evaluation import Evaluator, Slot
from research.watching.gauges import Gauges, make_gauges
from research.watching.jaxprs import Program
from research.watching.layers import Plan, make_plan, rows_in_order
from research.watching.marks import is_float_array, marking
from research.watching.selection import Select, choose
from research.watching.slots import WIDTH, slot_dtype

NARROW = "float16"


@dataclass(frozen=True)
class Loss:
    """A loss as a pure function of two trees of arrays.

    Attributes:
        function: ``function(differentiated, others)`` returns the loss and any auxiliary output.
        differentiated: the inputs with respect to which it is differentiated.
        others: other inputs that may be parameters of layers.
        contexts: what has to be entered while it is traced.
        path_start: how many keys at the start of an input's path are not part of its name.
    """

    function: Callable[[Any, Any], tuple[Any, Any]]
    differentiated: Any
    others: Any = ()
    contexts: Sequence[Callable[[], AbstractContextManager]] = ()
    path_start: int = 0


@dataclass(frozen=True)
class Traced:
    """A traced loss.

    Attributes:
        closed: the program.
        leaves: its inputs.
        rebuild: the loss and the auxiliary output from the outputs of the program.
    """

    closed: ClosedJaxpr
    leaves: list[Leaf]
    rebuild: Callable[[Sequence[Any]], tuple[Any, Any]]


@dataclass(frozen=True)
class Measured:
    """What ``measure_loss`` returns: the loss, the auxiliary output, the gradient, the gauges."""

    value: Any
    aux: Any
    grads: Any
    gauges: Gauges


@dataclass(frozen=True)
class _Static:
    """A part of the auxiliary output that is no array."""

    value: Any


def trace(loss: Loss) -> Traced:
    """Traces a loss with marks."""
    outputs: list[Any] = []

    def flat(differentiated: Any, others: Any) -> list[Any]:
        with ExitStack() as stack:
            for context in loss.contexts:
                stack.enter_context(context())
            stack.enter_context(marking())
            value, aux = loss.function(differentiated, others)
        leaves, tree = jax.tree.flatten(aux)
        arrays = [leaf for leaf in leaves if _is_array(leaf)]
        statics = [None if _is_array(leaf) else _Static(leaf) for leaf in leaves]
        outputs.append((tree, statics))
        return [value, *arrays]

    closed = jax.make_jaxpr(flat)(loss.differentiated, loss.others)
    tree, statics = outputs[-1]

    def rebuild(flat_outputs: Sequence[Any]) -> tuple[Any, Any]:
        value, *arrays = flat_outputs
        remaining = iter(arrays)
        leaves = []
        for static in statics:
            leaves.append(next(remaining) if static is None else static.value)
        return value, jax.tree.unflatten(tree, leaves)

    leaves = _leaves(loss.differentiated, loss.path_start, is_differentiated=True)
    leaves += _leaves(loss.others, loss.path_start, is_differentiated=False)
    return Traced(closed, leaves, rebuild)


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | int | float | complex) or hasattr(value, "__array__")


def _leaves(
    tree: Any,
    path_start: int,
    *,
    is_differentiated: bool,
) -> list[Leaf]:
    leaves = []
    for path, value in jax.tree_util.tree_leaves_with_path(tree):
        keys = tuple(_key_name(key) for key in path[path_start:])
        leaves.append(Leaf(keys, is_differentiated, int(getattr(value, "size", 1))))
    return leaves


def _key_name(key: Any) -> str:
    return jax.tree_util.keystr((key,), simple=True)


def plan_measurement(
    traced: Traced,
    select: Select,
    depth: int | None,
) -> Plan:
    """Chooses what is measured in a traced loss.

    Args:
        traced: the loss as a program, and its inputs.
        select: which layers are measured; see ``selection.choose``.
        depth: the number of entries of the paths of the layers; None for any.

    Raises:
        ValueError: nothing can be measured, or what was asked for cannot.
    """
    found = Discovery(traced.closed, traced.leaves).sites
    chosen = choose(found, select, depth, traced.leaves)
    return make_plan(chosen, found, traced.leaves)


def measure_loss(
    loss: Loss,
    *,
    select: Select,
    depth: int | None,
    loss_scale: Any,
) -> Measured:
    """Differentiates a loss and measures its layers.

    Args:
        loss: the loss.
        select: see ``selection.choose``.
        depth: see ``selection.choose``.
        loss_scale: the factor that the loss contains; None for none.
    """
    traced = trace(loss)
    plan = plan_measurement(traced, select, depth)
    _check_formats(plan, loss_scale)
    slots = _make_slots(plan)
    evaluator = Evaluator(plan.layer_scans)
    program = Program(traced.closed.jaxpr, tuple(traced.closed.consts))
    others = jax.tree.leaves(loss.others)

    def evaluate(differentiated: Any, slots: list[Slot]) -> tuple[Any, Any]:
        inputs = [*jax.tree.leaves(differentiated), *others]
        return traced.rebuild(evaluator.evaluate(program, inputs, slots))

    differentiate = jax.value_and_grad(evaluate, argnums=(0, 1), has_aux=True)
    (value, aux), (grads, slot_grads) = differentiate(loss.differentiated, slots)
    grad_leaves: list[Any] = [*jax.tree.leaves(grads), *[None] * len(others)]
    gauges = make_gauges(
        plan.table,
        _sums_in_order(plan, [slot.value for slot in slot_grads]),
        grad_leaves,
        loss_scale,
    )
    return Measured(value, aux, grads, gauges)


def _check_formats(plan: Plan, loss_scale: Any) -> None:
    """Refuses to measure gradients that a narrow format may have turned to zero unnoticed.

    Raises:
        ValueError: a signal is in float16 and nothing is said of a loss scale.
    """
    if loss_scale is not None:
        return
    for block in plan.blocks:
        for site in block:
            if str(site.dtype) == NARROW:
                raise ValueError(
                    f"{site.name} is in float16, where gradients below 6e-8 become 0: multiply the "
                    "loss by a loss scale and pass it as loss_scale=, or pass loss_scale=1"
                )


def _make_slots(plan: Plan) -> list[Slot]:
    """The slot of the input of the first layer, if it is measured, and one for each site."""
    slots = []
    if plan.source is not None:
        value = _zeros(plan.source_loops, plan.source.dtype)
        slots.append(Slot(plan.source.path, plan.source, value))
    for block in plan.blocks:
        for site in block:
            slots.append(Slot(site.path, None, _zeros(site.loops, site.dtype)))
    return slots


def _zeros(loops: Sequence[Loop], dtype: Any) -> Array:
    lengths = [loop.length for loop in loops if loop.over_layers]
    return jnp.zeros((*lengths, WIDTH), slot_dtype(dtype))


def _sums_in_order(plan: Plan, values: Sequence[Array]) -> Array:
    """The statistics of the signals [N+1, 8]; zeros where the first is not measured."""
    rows = list(values)
    first = jnp.zeros((1, WIDTH), slot_dtype(rows[0].dtype))
    if plan.source is not None:
        first = rows.pop(0)[None]
    return jnp.concatenate([first, *rows_in_order(plan.table, rows, jnp.stack)])


def check_differentiable(leaf: Any, name: str) -> None:
    """Refuses an input that cannot be differentiated.

    Raises:
        TypeError: it is no floating-point array.
    """
    if not is_float_array(leaf) and not isinstance(leaf, float):
        raise TypeError(f"{name} must hold floating-point arrays, got {short_repr(leaf)}")
