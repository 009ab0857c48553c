"""Runs one of a stack of layers, each in its own number format where they differ."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from research.gauges.slots import Statistics
from research.models.architecture import Architecture, ForwardContext
from research.models.block_rounding import round_weights
from research.models.hparams import HParams
from research.models.layer import Layer, Slots
from research.models.plan import Part


@dataclass(frozen=True)
class StackedLayer:
    """The layers of a stack without their weights.

    Where layers have different number formats, the format of a layer is selected by its number
    when the program runs. So one program serves every choice of layers, and the stack stays a scan.

    Attributes:
        arch: the network.
        graphs: the layer in the format of the network, and in each of ``arch.layer_formats``.
    """

    arch: Architecture
    graphs: tuple[nnx.GraphDef, ...]

    def __call__(
        self,
        params: Any,
        states: Any,
        h: Array,
        slots: Slots,
        ctx: ForwardContext,
        layer_number: Array,
    ) -> tuple[Array, Statistics, Any]:
        """Runs layer ``layer_number``.

        Args:
            params: the weights of the layer.
            states: its running statistics.
            h: its input, in ``arch.signal_dtype``.
            slots: see ``Layer``.
            ctx: the context of the pass.
            layer_number: the number of the layer, from 0.

        Returns:
            Its output in the format of ``h``, its forward statistics, and its new running
            statistics.
        """
        is_selected = len(self.graphs) > 1

        def run(graph: nnx.GraphDef, h: Array) -> tuple[Array, Statistics, Any]:
            is_own_format = graph is self.graphs[0]
            used = round_weights(self.arch, params) if is_own_format else params
            layer = nnx.merge(graph, used, states, copy=is_selected)
            out, statistics = layer(h, slots, ctx, layer_number)
            return out, statistics, nnx.state(layer, nnx.Not(nnx.Param))

        if not is_selected:
            return run(self.graphs[0], h)
        formats = [jnp.dtype(self.arch.dtype)]
        for layer_format in self.arch.layer_formats:
            formats.append(jnp.dtype(layer_format.dtype))
        branches = []
        for graph, dtype in zip(self.graphs, formats, strict=True):
            branches.append(_cast_around(partial(run, graph), dtype, states))
        return jax.lax.switch(ctx.hp.layer_formats[layer_number], branches, h)


def _cast_around(
    run: Callable[[Array], tuple[Array, Statistics, Any]],
    dtype: jnp.dtype,
    states: Any,
) -> Callable[[Array], tuple[Array, Statistics, Any]]:
    """The layer with its input cast to its format, and its results to those that others have."""

    def run_and_cast(h: Array) -> tuple[Array, Statistics, Any]:
        out, statistics, new_states = run(h.astype(dtype))
        new_states = jax.tree.map(_cast_like, new_states, states)
        return out.astype(h.dtype), statistics, new_states

    return run_and_cast


def _cast_like(values: Array, example: Array) -> Array:
    return values.astype(example.dtype)


def make_stacked_layer(
    graph: nnx.GraphDef,
    arch: Architecture,
    part: Part,
    hp: HParams,
) -> StackedLayer:
    """The layers of a stack.

    Args:
        graph: the layer in the format of the network.
        arch: the network.
        part: which layer of a block it is.
        hp: the hyperparameters.
    """
    graphs = [graph]
    for layer_format in arch.layer_formats:
        in_format = arch.in_format(layer_format)

        def make_layer(arch: Architecture = in_format) -> Layer:
            return Layer(arch, part, jnp.int32(0), hp, rngs=nnx.Rngs(0))

        graphs.append(nnx.graphdef(nnx.eval_shape(make_layer)))
    return StackedLayer(arch, tuple(graphs))
