"""What the number format does to each layer's gradient, counted from the bits."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from research.gauges.exponents import exponent_counts
from research.theory.formats import BINS, EXPONENTS
from research.watching.layers import LayerTable, OwnedLeaf, Section, rows_in_order


@dataclass(frozen=True)
class _Counts:
    """Numbers of elements of each layer.

    Attributes:
        by_exponent: by exponent, then of zeros, then of non-finite elements [..., BINS + 2].
        subnormal: of subnormal elements [...].
    """

    by_exponent: Array
    subnormal: Array

    def __add__(self, other: "_Counts") -> "_Counts":
        by_exponent = self.by_exponent + other.by_exponent
        return _Counts(by_exponent, self.subnormal + other.subnormal)


jax.tree_util.register_dataclass(_Counts, data_fields=["by_exponent", "subnormal"], meta_fields=[])


def layer_exponents(table: LayerTable, grads: Sequence[Any]) -> dict[str, Array]:
    """The exponent gauges of each layer's gradient, as fractions of its elements.

    Args:
        table: the layers.
        grads: for each input of the loss its gradient; None where it is not differentiated.

    Returns:
        ``grad_exponent`` [N, BINS], ``grad_zero``, ``grad_subnormal`` and ``grad_nonfinite`` [N];
        NaN for a layer that owns no parameters.
    """
    counts = []
    for section in itertools.chain.from_iterable(table.blocks):
        counts.append(_count_section(section, grads))
    by_exponent = _in_forward_order(table, [section.by_exponent for section in counts])
    subnormal = _in_forward_order(table, [section.subnormal for section in counts])
    num_elements = jnp.sum(by_exponent, axis=-1)
    divisor = jnp.where(num_elements > 0, num_elements, jnp.nan)
    fractions = by_exponent / divisor[:, None]
    return {
        "grad_exponent": fractions[:, :BINS],
        "grad_zero": fractions[:, BINS],
        "grad_subnormal": subnormal / divisor,
        "grad_nonfinite": fractions[:, BINS + 1],
    }


def _in_forward_order(table: LayerTable, sections: Sequence[Array]) -> Array:
    """The rows of all sections in one array, a row for each layer [N, …]."""
    rows = rows_in_order(table, sections, jnp.stack)
    return jnp.concatenate(list(rows))


def _count_section(section: Section, grads: Sequence[Any]) -> _Counts:
    total = _Counts(
        by_exponent=jnp.zeros((*section.loops, BINS + 2)),
        subnormal=jnp.zeros(section.loops),
    )
    for owned in section.owned:
        grad = grads[owned.leaf]
        if grad is not None:
            total = total + _count(grad, owned, section.loops)
    return total


def _count(grad: Array, owned: OwnedLeaf, loops: tuple[int, ...]) -> _Counts:
    """Counts of one array; loops come first."""
    num_loops = len(owned.axes)
    loops_first = jnp.moveaxis(grad, owned.axes, range(num_loops))
    size_of_layer = grad.size // math.prod(loops)
    by_layer = loops_first.reshape(-1, size_of_layer)
    counts = exponent_counts(by_layer, batch_axes=1)
    smallest_exponent = int(jnp.finfo(grad.dtype).minexp)
    is_subnormal = smallest_exponent > EXPONENTS
    finite = counts[:, :BINS]
    subnormal = jnp.sum(finite[:, is_subnormal], axis=-1)
    return _Counts(
        by_exponent=counts.reshape(*loops, BINS + 2),
        subnormal=subnormal.reshape(loops),
    )
