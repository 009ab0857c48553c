"""Marks: identities in a traced program that say which array is the output of which layer.

Marks exist only while Fathom traces a loss. They cost nothing in the compiled program.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

TAP = "tap"  # the kind of a layer that the user names with ``tap``


class Role(enum.Enum):
    """Which array of a layer a mark stands at."""

    INPUT = "input"
    OUTPUT = "output"


@dataclass(frozen=True, eq=False)
class Label:
    """What a mark says. Each mark has its own, by which it is found again.

    Attributes:
        name: the path of the layer, such as ``blocks/3``. It is None where the layer does not know
            its path; then it follows from the path of its first parameter.
        kind: the class of the layer.
        role: which array of the layer it is.
        depth: how many entries the path of the first parameter is longer than that of the layer.
        per_iteration: whether each iteration of the loop around it is a layer of its own.
    """

    name: str | None
    kind: str
    role: Role
    depth: int = 0
    per_iteration: bool = False


mark_p = Primitive("fathom_mark")
"""``mark(h, *parameters, label=…)`` is ``h``. The parameters say which arrays the layer owns."""

# Part of the key under which JAX caches traced functions: a function that was traced without marks
# before is traced again.
_marking = jax.make_user_context(default_value=None)


def _same(h: Any, *parameters: Any, label: Label) -> Any:
    del parameters, label
    return h


def _lower(
    context: Any,
    h: Any,
    *parameters: Any,
    label: Label,
) -> list[Any]:
    del context, parameters, label
    return [h]


def _batch(
    args: Sequence[Any],
    axes: Sequence[Any],
    *,
    label: Label,
) -> tuple[Any, Any]:
    return mark_p.bind(*args, label=label), axes[0]


def _jvp(
    primals: Sequence[Any],
    tangents: Sequence[Any],
    *,
    label: Label,
) -> tuple[Any, Any]:
    return mark_p.bind(*primals, label=label), tangents[0]


mark_p.def_impl(_same)
mark_p.def_abstract_eval(_same)
mlir.register_lowering(mark_p, _lower)
batching.primitive_batchers[mark_p] = _batch
ad.primitive_jvps[mark_p] = _jvp


def marking() -> AbstractContextManager:
    """While the context lasts, marks are put into traced programs."""
    return _marking(True)


def is_marking() -> bool:
    """Whether marks are put into the program that is traced."""
    return _marking.value is not None


def mark(
    h: Array,
    label: Label,
    parameters: Sequence[Array] = (),
) -> Array:
    """``h``, with a mark in the traced program.

    Args:
        h: an array.
        label: what the mark says.
        parameters: the parameters of the layer.
    """
    return mark_p.bind(h, *parameters, label=label)


def tap(
    h: Array,
    name: str,
    params: Any = None,
    *,
    per_iteration: bool = False,
) -> Array:
    """Names an array of a plain JAX function, so that ``fathom.watch`` measures it.

    It is the identity. It works under ``jit``, ``scan``, ``vmap``, ``checkpoint`` and
    ``shard_map``, and costs nothing where nothing is measured.

    >>> import jax, jax.numpy as jnp, fathom
    >>> def loss(params, x):
    ...     for n, w in enumerate(params):
    ...         x = fathom.tap(jnp.tanh(x @ w), f"layer/{n}", params=w)
    ...     return jnp.mean(x**2)

    Args:
        h: a floating-point array, such as the output of a layer.
        name: the name of the layer. In the body of a loop over layers it is the same for all.
        params: the parameters of the layer, a tree of arrays, for the norms of their gradient.
            They must be the ones that the loss receives, or slices of them that a scan runs along.
        per_iteration: in the body of a scan over time, measure each iteration apart: ``name[0]``,
            ``name[1]``, …. Otherwise all iterations are one layer, unless the scan runs along
            parameters.

    Returns:
        ``h``.

    Raises:
        TypeError: ``h`` is no array, or is measured and is no floating-point array, or the name is
            no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a tap must be a text such as 'layer/0', got {describe(name)}")
    is_array = hasattr(h, "dtype") and hasattr(h, "shape")
    if not is_array or (is_marking() and not is_float_array(h)):
        raise TypeError(f"tap {name!r} expects a floating-point array, got {describe(h)}")
    if not is_marking():
        return h
    parameters = [leaf for leaf in jax.tree.leaves(params) if is_float_array(leaf)]
    label = Label(name, TAP, Role.OUTPUT, per_iteration=per_iteration)
    return mark(h, label, parameters)


def is_float_array(value: Any) -> bool:
    """Whether a value is an array of floating-point numbers, traced or not."""
    dtype = getattr(value, "dtype", None)
    return dtype is not None and hasattr(value, "shape") and jnp.issubdtype(dtype, jnp.floating)


def describe(value: Any) -> str:
    """The type of a value in a few words, such as ``int32[3]``."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        shape = ",".join(map(str, value.shape))
        return f"{value.dtype}[{shape}]"
    return type(value).__name__


def call_between_marks(
    call: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    name: str | None,
    kind: str,
    parameters: Sequence[Array],
    depth: int = 0,
) -> Any:
    """Calls a module between a mark at its first array argument and one at its output.

    The output is the first array that has the shape of that argument, else the first array.

    Args:
        call: the method of the module.
        args: its arguments, without the module.
        kwargs: its keyword arguments.
        name: the path of the module, if it knows it.
        kind: its class.
        parameters: its parameters, with those of the modules in it.
        depth: see ``Label``.

    Returns:
        What the method returns.
    """
    args = list(args)
    shape = None
    for index, value in enumerate(args):
        if is_float_array(value):
            shape = value.shape
            args[index] = mark(value, Label(name, kind, Role.INPUT, depth), parameters)
            break
    out = call(*args, **kwargs)
    leaves, tree = jax.tree.flatten(out)
    index = _find_output(leaves, shape)
    if index is None:
        return out
    label = Label(name, kind, Role.OUTPUT, depth)
    leaves[index] = mark(leaves[index], label, parameters)
    return jax.tree.unflatten(tree, leaves)


def _find_output(leaves: Sequence[Any], shape: tuple[int, ...] | None) -> int | None:
    """The index of the array that a module hands on; None where it returns no array."""
    candidates = []
    for index, leaf in enumerate(leaves):
        if is_float_array(leaf) and leaf.ndim:
            candidates.append(index)
    for index in candidates:
        if leaves[index].shape == shape:
            return index
    return candidates[0] if candidates else None
