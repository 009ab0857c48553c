"""What a measured step returns: one value a layer of each gauge, and the names of the layers."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from research.gauges.norms import nonzero_or_one
from research.gauges.table import (
    ACTIVATION_MEAN,
    ACTIVATION_RMS,
    GRAD_NORM,
    SIGNAL_GRAD,
    UPDATE_NORM,
    UPDATE_RATIO,
    WEIGHT_NORM,
)
from research.watching.layer_exponents import layer_exponents
from research.watching.layer_norms import layer_norms
from research.watching.layers import LayerTable
from research.watching.marks import is_float_array
from research.watching.slots import (
    BACKWARD,
    norm_of_bands,
    read_statistics,
    square_in_bands,
    varying_axes,
)


@dataclass(frozen=True)
class Gauges:
    """What was measured in one step. It is a pytree, so a jit-compiled step may return it.

    ``gauges["signal_grad"]`` is an array over the signals [N+1] or the layers [N]: see
    ``research.gauges.table``. Entry 0 of the signals is the input of the first layer, entry l + 1
    the output of layer l. Entries that are not measured are NaN.

    Attributes:
        sums: statistics of the signals that add up [N+1, 8].
        by_layer: what is measured of each layer's parameters, by gauge [N].
        grad_norm_total: the norm of the whole gradient.
        largest_input: the largest magnitude in the arguments of the loss that are not
            differentiated, such as the batch; infinite if one of them is not finite, and 1 without
            such arguments of real numbers.
        table: the layers.
    """

    sums: Array
    by_layer: dict[str, Array]
    grad_norm_total: Array
    largest_input: Array
    table: LayerTable

    def __getitem__(self, name: str) -> Array:
        """One gauge, by its name in the record."""
        profile = self.profile()
        if name not in profile:
            raise KeyError(f"{name} is not measured; measured are {', '.join(profile)}")
        return profile[name]

    def profile(self) -> dict[str, Array]:
        """All gauges by name."""
        statistics = read_statistics(self.sums)
        is_measured = np.ones(len(self.table) + 1, bool)
        is_measured[0] = bool(self.table.input_name)
        xp = np if isinstance(self.sums, np.ndarray) else jnp
        signals = {
            SIGNAL_GRAD.name: xp.where(is_measured, statistics.signal_grad, xp.nan),
            ACTIVATION_RMS.name: statistics.activation_rms,
            ACTIVATION_MEAN.name: statistics.activation_mean,
        }
        return signals | self.by_layer


jax.tree_util.register_dataclass(
    Gauges,
    data_fields=["sums", "by_layer", "grad_norm_total", "largest_input"],
    meta_fields=["table"],
)


def make_gauges(
    table: LayerTable,
    sums: Float[Array, "signals 8"],
    grads: Sequence[Any],
    scale: Any,
) -> Gauges:
    """The gauges of a step.

    Args:
        table: the layers.
        sums: what the slots of the signals received.
        grads: for each input of the loss its gradient; None where it is not differentiated.
        scale: the factor on the loss, which is divided out.
    """
    norms = layer_norms(table, grads)
    by_layer = norms.by_layer
    total = norms.total
    if scale is not None:
        sums = _divide_gradients(sums, scale)
        by_layer = by_layer / scale
        total = total / scale
    return Gauges(sums, {GRAD_NORM.name: by_layer}, total, jnp.ones(()), table)


def _divide_gradients(sums: Array, divisor: Any) -> Array:
    """The sums after the gradients were divided by a number.

    The three sums of squares hold norms of different magnitudes, so the norm is divided and squared
    again.
    """
    norms = norm_of_bands(sums[..., BACKWARD])
    return sums.at[..., BACKWARD].set(square_in_bands(norms / divisor))


def add_updates(
    gauges: Gauges,
    before: Sequence[Any],
    after: Sequence[Any],
) -> Gauges:
    """The gauges with the norms of the weights and of their update.

    Args:
        gauges: what was measured at the step.
        before: for each input of the loss its value before the update; None where it is not
            differentiated.
        after: the same after the update.
    """
    changes = []
    for old, new in zip(before, after, strict=True):
        changes.append(None if old is None else _difference(new, old))
    weights = layer_norms(gauges.table, before).by_layer
    updates = layer_norms(gauges.table, changes).by_layer
    ratios = jnp.where(weights > 0, updates / nonzero_or_one(weights), jnp.nan)
    of_updates = {
        WEIGHT_NORM.name: weights,
        UPDATE_NORM.name: updates,
        UPDATE_RATIO.name: ratios,
    }
    return dataclasses.replace(gauges, by_layer=gauges.by_layer | of_updates)


def add_exponents(gauges: Gauges, grads: Sequence[Any]) -> Gauges:
    """The gauges with what the number format does to each layer's gradient.

    Args:
        gauges: what was measured at the step.
        grads: for each input of the loss its gradient; None where it is not differentiated.
    """
    exponents = layer_exponents(gauges.table, grads)
    return dataclasses.replace(gauges, by_layer=gauges.by_layer | exponents)


def _difference(new: Array, old: Array) -> Array:
    """``new`` − ``old``, in float32 or wider."""
    wide = jnp.promote_types(new.dtype, jnp.float32)
    return new.astype(wide) - old.astype(wide)


def merge_gauges(
    parts: Gauges,
    grads: Sequence[Any],
    num_parts: int,
) -> Gauges:
    """The gauges of the mean of several losses, such as those of microbatches.

    Args:
        parts: the gauges of the losses, stacked on a leading axis.
        grads: for each input of the loss its gradient, of the mean of the losses; None where it is
            not differentiated.
        num_parts: the number of losses.
    """
    sums = jnp.sum(parts.sums, axis=0)
    merged = make_gauges(parts.table, _divide_gradients(sums, num_parts), grads, None)
    return dataclasses.replace(merged, largest_input=jnp.max(parts.largest_input))


def find_largest(values: Any) -> Array:
    """The largest magnitude in the real arrays of a tree, or 1 without such arrays.

    It is infinite if a number is not finite; NaN would get lost where devices compare theirs.
    """
    largest = []
    for leaf in jax.tree.leaves(values):
        if is_float_array(leaf) and leaf.size:
            sizes = jnp.where(jnp.isfinite(leaf), jnp.abs(leaf), jnp.inf)
            magnitude = jnp.max(sizes).astype(jnp.float32)
            axes = varying_axes(magnitude)
            largest.append(lax.pmax(magnitude, axes) if axes else magnitude)
    return jnp.max(jnp.stack(largest)) if largest else jnp.ones(())
