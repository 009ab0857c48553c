"""The norm of each layer's part of a tree of parameters, and of the whole tree, in one pass.

The squares of float32 numbers are summed in float64, whose range holds them all. For float64, and
where there is no float64, sums are computed for all arrays at once, and only where one of them
cannot be trusted, because squares underflow or overflow, again with all numbers multiplied by a
power of two. Nothing else is compiled for that, since the passes are iterations of one loop.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from research.watching.layers import LayerTable, OwnedLeaf, Section, rows_in_order
from research.watching.slots import sums_in_double

SCALES = {  # the powers of two that numbers are multiplied by, pass by pass
    "float32": (1.0, 2.0**70, 2.0**-70),
    "float64": (1.0, 2.0**600, 2.0**-600),
}
SMALL = 2**12  # elements of an array that may be copied to be summed with others
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
    arrays = [array for array in trees if array is not None]
    dtype = jnp.result_type(jnp.float32, *arrays)
    if sums_in_double(dtype):
        with jax.enable_x64(True):
            squares = _squares(table, trees, None, jnp.dtype(jnp.float64))
            norms = jnp.sqrt(squares).astype(jnp.float32)
    else:
        norms = _norms_in_passes(table, trees, dtype)
    has_part = np.concatenate([*_rows_of_parts(table)])
    by_layer = jnp.where(has_part, norms[:-1], jnp.nan)
    return LayerNorms(by_layer, total=norms[-1])


def _norms_in_passes(
    table: LayerTable,
    trees: Sequence[Any],
    dtype: Any,
) -> Array:
    scales = jnp.array(SCALES[str(dtype)], dtype)
    smallest_exponent = int(jnp.finfo(dtype).minexp)
    floor = 2.0 ** (smallest_exponent // 2 - MARGIN)

    def needs_pass(state: _State) -> Array:
        has_scale = state.passes < len(scales)
        return has_scale & ~jnp.all(state.is_right)

    def run_pass(state: _State) -> _State:
        scale = scales[state.passes]
        squares = _squares(table, trees, scale, dtype)
        norms = jnp.sqrt(squares) / scale
        is_trustworthy = (squares > floor) & (squares < jnp.inf)
        return _State(
            passes=state.passes + 1,
            norms=jnp.where(state.is_right, state.norms, norms),
            is_right=state.is_right | is_trustworthy,
        )

    num = len(table) + 1
    start = _State(
        passes=jnp.zeros((), jnp.int32),
        norms=jnp.zeros(num, dtype),
        is_right=jnp.zeros(num, bool),
    )
    return lax.while_loop(needs_pass, run_pass, start).norms


@dataclass(frozen=True)
class _Rows:
    """The arrays of some layers.

    Attributes:
        layers: the layers; empty for arrays of no layer, which are one row together.
        small: small arrays as matrices with a row for each layer [n, …]. They are summed together,
            because every sum of its own takes time to compile.
        large: large arrays with an axis for each loop first, and the number of these axes.
        single: lists with one large array for each layer.
    """

    layers: tuple[int, ...]
    small: list[Array] = field(default_factory=list)
    large: list[tuple[Array, int]] = field(default_factory=list)
    single: list[list[Array]] = field(default_factory=list)


def _squares(
    table: LayerTable,
    trees: Sequence[Any],
    scale: Array | None,
    dtype: Any,
) -> Array:
    """Sums of squares of all numbers times ``scale``: of each layer, then of the whole [N + 1]."""
    by_layer = jnp.zeros(len(table), dtype)
    totals = []
    for rows in _arrays_by_layers(table, trees):
        sums = _sum_rows(rows, scale, dtype)
        totals.append(jnp.sum(sums))
        if rows.layers:
            by_layer = by_layer + _spread(sums, rows.layers, len(table))
    return jnp.append(by_layer, sum(totals))


def _arrays_by_layers(table: LayerTable, trees: Sequence[Any]) -> list[_Rows]:
    """The arrays of a tree by the layers that they belong to.

    Arrays of layers outside of loops are collected together if their shapes are the same.
    """
    rows: dict[tuple[int, ...], _Rows] = {}
    rounds: dict[Any, list[dict[int, Array]]] = {}
    is_owned = set()

    def rows_of(layers: tuple[int, ...]) -> _Rows:
        return rows.setdefault(layers, _Rows(layers))

    for section, layers in zip(_sections(table), _layers_of_sections(table), strict=True):
        for owned in section.owned:
            array = trees[owned.leaf]
            if array is None:
                continue
            is_owned.add(owned.leaf)
            if section.loops:
                stacked = _loops_first(array, owned)
                _add_stacked(rows_of(layers), stacked, len(section.loops))
            else:
                rounds_of_type = rounds.setdefault(jax.typeof(array), [])
                _add_to_round(rounds_of_type, layers[0], array)
    for one_array_each in itertools.chain.from_iterable(rounds.values()):
        layers = tuple(sorted(one_array_each))
        arrays = [one_array_each[layer] for layer in layers]
        if _is_small(arrays[0]):
            _add_stacked(rows_of(layers), jnp.stack(arrays), num_loops=1)
        else:
            rows_of(layers).single.append(arrays)
    for index, array in enumerate(trees):
        if array is not None and index not in is_owned:
            _add_stacked(rows_of(()), array, num_loops=0)
    return list(rows.values())


def _add_to_round(rounds: list[dict[int, Array]], layer: int, array: Array) -> None:
    """Adds an array to the first dictionary that has none of its layer yet."""
    for arrays in rounds:
        if layer not in arrays:
            arrays[layer] = array
            return
    rounds.append({layer: array})


def _add_stacked(rows: _Rows, array: Array, num_loops: int) -> None:
    if _is_small(array):
        num_rows = len(rows.layers) or 1
        rows.small.append(array.reshape(num_rows, -1))
    else:
        rows.large.append((array, num_loops))


def _is_small(array: Array) -> bool:
    """Whether an array may be copied; an array that is explicitly sharded is not."""
    sharding = getattr(jax.typeof(array), "sharding", None)
    spec = getattr(sharding, "spec", ())
    return array.size <= SMALL and not any(spec)


def _sum_rows(rows: _Rows, scale: Array | None, dtype: Any) -> Array:
    """The sum of squares of each layer [n]."""
    total = jnp.zeros(len(rows.layers) or 1, dtype)
    if rows.small:
        wide = jnp.result_type(jnp.float32, *rows.small)
        matrices = [matrix.astype(wide) for matrix in rows.small]
        matrix = jnp.concatenate(matrices, axis=1)
        total = total + _sum_of_squares(matrix, scale, 1, dtype)
    for array, num_loops in rows.large:
        sums = _sum_of_squares(array, scale, num_loops, dtype)
        total = total + sums.reshape(-1)
    for arrays in rows.single:
        sums = [_sum_of_squares(array, scale, 0, dtype) for array in arrays]
        total = total + jnp.stack(sums)
    return total


# Traced once for all arrays of the same shape.
@functools.partial(jax.jit, static_argnames=("num_loops", "dtype"))
def _sum_of_squares(
    array: Array,
    scale: Array | None,
    num_loops: int,
    dtype: Any,
) -> Array:
    """The sums over all axes except those of the loops, which come first."""
    wide = array.astype(dtype)
    if scale is not None:
        wide = wide * scale
    inner_axes = tuple(range(num_loops, array.ndim))
    return jnp.sum(wide * wide, inner_axes)


def _spread(sums: Array, layers: tuple[int, ...], num_layers: int) -> Array:
    """The sums of some layers among those of all; 0 for the others [N]."""
    if layers == tuple(range(num_layers)):
        return sums
    index_of_zero = len(layers)
    indices = np.full(num_layers, index_of_zero)
    indices[list(layers)] = np.arange(len(layers))
    zero = jnp.zeros((), sums.dtype)
    sums_and_zero = jnp.append(sums, zero)
    return sums_and_zero[indices]


def _layers_of_sections(table: LayerTable) -> list[tuple[int, ...]]:
    """For each section the indices of its layers, in the order of its iterations."""
    numbers = []
    start = 0
    for section in _sections(table):
        count = math.prod(section.loops)
        of_section = np.arange(start, start + count)
        numbers.append(of_section.reshape(section.loops))
        start += count
    rows = rows_in_order(table, numbers, np.stack)
    forward = np.concatenate(list(rows))
    layer_of = np.argsort(forward)
    layers = []
    for of_section in numbers:
        indices = layer_of[of_section.reshape(-1)]
        layers.append(tuple(indices.tolist()))
    return layers


def _rows_of_parts(table: LayerTable) -> Any:
    """For each layer whether it owns a part."""
    rows = []
    for section in _sections(table):
        owns_part = bool(section.owned)
        rows.append(np.full(section.loops, owns_part))
    return rows_in_order(table, rows, np.stack)


def _sections(table: LayerTable) -> list[Section]:
    return list(itertools.chain.from_iterable(table.blocks))


def _loops_first(array: Array, owned: OwnedLeaf) -> Array:
    num_loops = len(owned.axes)
    return jnp.moveaxis(array, owned.axes, range(num_loops))
