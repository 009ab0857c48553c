"""The norm of each layer's part of a tree of parameters, and of the whole tree, in one pass.

The squares of float32 numbers are summed in float64, whose range holds them all. For float64, and
where there is no float64, sums are computed for all arrays at once, and only where one of them
cannot be trusted, because squares underflow or overflow, again with all numbers multiplied by a
power of two. Nothing else is compiled for that, since the passes are iterations of one loop.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from research.watching.layers import LayerTable, OwnedLeaf, Section, rows_in_order
from research.watching.slots import sums_in_double

SCALES = {"float32": (1.0, 2.0**70, 2.0**-70), "float64": (1.0, 2.0**600, 2.0**-600)}
MARGIN = 7  # binary digits by which a sum must exceed the squares that underflow


@dataclass(frozen=True)
class LayerNorms:
    """Norms of a tree of parameters.

    Attributes:
        by_layer: that of each layer's part [N]; NaN for a layer that owns no part.
        total: that of the whole tree.
    """

    by_layer: Array
    total: Array


@dataclass(frozen=True)
class _State:
    """The norms after some passes.

    Attributes:
        passes: how many.
        norms: the norms [N + 1].
        is_right: which of them can be trusted.
    """

    passes: Array
    norms: Array
    is_right: Array


jax.tree_util.register_dataclass(
    _State, data_fields=["passes", "norms", "is_right"], meta_fields=[]
)


def layer_norms(table: LayerTable, trees: Sequence[Any]) -> LayerNorms:
    """The norms of the arrays of a tree, by layer and in total.

    Args:
        table: the layers.
        trees: for each input of the loss an array, or None.
    """
    dtype = jnp.result_type(jnp.float32, *[array for array in trees if array is not None])
    if sums_in_double(dtype):
        with jax.enable_x64(True):
            squares = _squares(table, trees, jnp.float64(1), jnp.dtype(jnp.float64))
            norms = jnp.sqrt(squares).astype(jnp.float32)
    else:
        norms = _norms_in_passes(table, trees, dtype)
    has_part = np.concatenate([*_rows_of_parts(table)])
    return LayerNorms(jnp.where(has_part, norms[:-1], jnp.nan), norms[-1])


def _norms_in_passes(
    table: LayerTable,
    trees: Sequence[Any],
    dtype: Any,
) -> Array:
    scales = jnp.array(SCALES[str(dtype)], dtype)
    smallest_exponent = int(jnp.finfo(dtype).minexp)
    floor = 2.0 ** (smallest_exponent // 2 - MARGIN)

    def needs_pass(state: _State) -> Array:
        return (state.passes < len(scales)) & ~jnp.all(state.is_right)

    def run_pass(state: _State) -> _State:
        scale = scales[state.passes]
        squares = _squares(table, trees, scale, dtype)
        norms = jnp.sqrt(squares) / scale
        return _State(
            passes=state.passes + 1,
            norms=jnp.where(state.is_right, state.norms, norms),
            is_right=state.is_right | ((squares > floor) & (squares < jnp.inf)),
        )

    num = len(table) + 1
    start = _State(
        passes=jnp.zeros((), jnp.int32),
        norms=jnp.zeros(num, dtype),
        is_right=jnp.zeros(num, bool),
    )
    return lax.while_loop(needs_pass, run_pass, start).norms


def _squares(
    table: LayerTable,
    trees: Sequence[Any],
    scale: Array,
    dtype: Any,
) -> Array:
    """Sums of squares of all numbers times ``scale``: of each layer, then of the whole [N + 1]."""
    rows = []
    totals = []
    is_owned = set()
    for section in _sections(table):
        row = jnp.zeros(section.loops, dtype)
        for owned in section.owned:
            array = trees[owned.leaf]
            if array is not None:
                is_owned.add(owned.leaf)
                row = row + _sum_of_squares(_loops_first(array, owned), section, scale, dtype)
        rows.append(row)
        totals.append(jnp.sum(row))
    for index, array in enumerate(trees):
        if array is not None and index not in is_owned:
            totals.append(jnp.sum((array.astype(dtype) * scale) ** 2))
    by_layer = jnp.concatenate(list(rows_in_order(table, rows, jnp.stack)))
    return jnp.append(by_layer, sum(totals))


def _sum_of_squares(
    array: Array,
    section: Section,
    scale: Array,
    dtype: Any,
) -> Array:
    """The sums over all axes except those of the loops, which come first."""
    axes = tuple(range(len(section.loops), array.ndim))
    return jnp.sum((array.astype(dtype) * scale) ** 2, axes)


def _rows_of_parts(table: LayerTable) -> Any:
    """For each layer whether it owns a part."""
    rows = []
    for section in _sections(table):
        rows.append(np.full(section.loops, bool(section.owned)))
    return rows_in_order(table, rows, np.stack)


def _sections(table: LayerTable) -> list[Section]:
    return list(itertools.chain.from_iterable(table.blocks))


def _loops_first(array: Array, owned: OwnedLeaf) -> Array:
    return jnp.moveaxis(array, owned.axes, range(len(owned.axes)))
