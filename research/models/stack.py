"""The network: an embedding, stages of identical blocks, and a head.

Each stage is one scan over stacked parameters.
"""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from research.config.options import ModelKind, SkipKind, Transformer
from research.gauges.slots import Statistics, tap
from research.gauges.table import GRAD_NORM, SIGNAL_GRAD
from research.models.activation import nonlinearity_of
from research.models.architecture import Architecture, ForwardContext
from research.models.block_rounding import round_weights
from research.models.dense import make_linear
from research.models.embed import make_embed, unit_vectors
from research.models.hparams import HParams
from research.models.layer import Layer, Slots, signal_statistics
from research.models.loop import loop_over_layers
from research.models.norm import apply_norm, make_norm
from research.models.plan import Part, Stage
from research.models.stacked_layer import StackedLayer, make_stacked_layer
from research.models.streams import copy_to_streams, mean_of_streams
from research.models.units import pad_units, read
from research.parallel.collectives import psum_tree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Step:
    """What a scan over time steps reads for each step.

    Attributes:
        number: the number of the step, from 0.
        inputs: what the step reads of the examples, [B, P].
        slots: zeros by gauge.
        padding_mask: which examples have a token at this step, [B]; None without padding.
    """

    number: Any
    inputs: Any
    slots: Any
    padding_mask: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Block:
    """What a scan over the blocks of a stage reads for each block.

    Attributes:
        number: the number of the block in its stage.
        params: the parameters of each part.
        states: the running statistics of each part.
        slots: zeros [parts] by gauge.
    """

    number: Any
    params: Any
    states: Any
    slots: Any


class Stack(nnx.Module):
    """The network.

    Layers are numbered through all stages in forward order, within a block part by part.

    ``stages`` holds for each stage and part the stack of its layers; a recurrent network has one
    ``cell`` instead.
    """

    def __init__(
        self,
        arch: Architecture,
        hp: HParams,
        *,
        rngs: nnx.Rngs,
    ):
        self.arch = arch
        self.embed = make_embed(arch, hp, rngs=rngs)
        if arch.shares_weights:
            part = arch.plan[0].parts[0]
            self.cell = Layer(arch, part, jnp.int32(0), hp, rngs=rngs)
        else:
            self.stages = nnx.List(_make_stacks(arch, hp, rngs))
        width = arch.residual_width
        self.norm = make_norm(arch.head_norm, width, **arch.formats, rngs=rngs)
        self.head = None if _is_tied(arch) else _make_head(arch, hp, rngs)

    def __call__(
        self,
        x: Array,
        slots: Slots,
        ctx: ForwardContext,
    ) -> tuple[Float[Array, "..."], Statistics]:
        """The logits, and the forward statistics of every layer in forward order.

        Args:
            x: numbers [B, inputs] or tokens [B, T].
            slots: zeros, by the name of the gauge that is returned as their gradient:
                ``signal_grad`` [N+1] (index 0 is the embedding's output), ``branch_grad`` and
                ``skip_grad`` [N], of a recurrent network ``grad_norm`` [N]; a gauge without a slot
                is not measured.
            ctx: the context of the pass, and what to measure.

        Returns:
            Logits [B, C], of a language model [B, T, C], and statistics [N] or [N+1] by gauge.
        """
        ctx = self.with_padding(ctx, x)
        layer_slots = dict(slots)
        embedding_slot = None
        signal_slots = slots.get(SIGNAL_GRAD.name)
        if signal_slots is not None:
            embedding_slot = signal_slots[0]
            layer_slots[SIGNAL_GRAD.name] = signal_slots[1:]
        h = tap(self.first_input(x, ctx), embedding_slot)
        statistics = [_add_axis(signal_statistics(self.arch, h, ctx, 0))]
        if self.arch.shares_weights:
            h, layer_statistics = self._run_steps(x, h, layer_slots, ctx)
        else:
            h, layer_statistics = self.run_layers(h, layer_slots, ctx)
        return self.logits(h, ctx), _concatenate([*statistics, *layer_statistics])

    def with_padding(self, ctx: ForwardContext, x: Array) -> ForwardContext:
        """The context with the positions of tokens ``x`` [B, T] that are not padding.

        It is ``ctx`` itself where the network's inputs are not padded.
        """
        if not self.arch.padded:
            return ctx
        return dataclasses.replace(ctx, padding_mask=x != 0)

    def first_input(self, x: Array, ctx: ForwardContext) -> Array:
        """The first layer's input h_0 [B, …, D] for inputs ``x`` [B, …]."""
        arch = self.arch
        if arch.shares_weights:
            return jnp.zeros((len(x), arch.state_width), arch.dtype)
        is_linear = arch.model.kind is ModelKind.mlp
        h = self.embed(x) if is_linear else self.embed(x, ctx.train)
        if arch.has_streams:
            return copy_to_streams(h, arch.num_streams)
        if not arch.growth:
            return h
        return pad_units(h, arch.residual_width - h.shape[-1])

    def run_layers(
        self,
        h: Array,
        slots: Slots,
        ctx: ForwardContext,
    ) -> tuple[Array, list[Statistics]]:
        """Runs all layers of a network whose layers do not share weights.

        Updates the running statistics of batch norm in place.

        Args:
            h: the first layer's input.
            slots: as for ``__call__`` without the embedding's entry, [N].
            ctx: the context of the pass; ``ctx.level`` selects the gauges.

        Returns:
            The last layer's output, and for each stage its statistics [layers] by gauge.
        """
        collected = []
        first_layer = 0
        first_stack = 0
        stacks = list(self.stages)
        h = h.astype(self.arch.signal_dtype)
        for stage in self.arch.plan:
            layers_per_block = len(stage.parts)
            h, statistics = _run_stage(
                stacks[first_stack : first_stack + layers_per_block],
                self.arch,
                stage,
                first_layer,
                h,
                _slice_slots(slots, stage, first_layer),
                ctx,
                recompute=self.arch.model.recompute,
            )
            collected.append(statistics)
            first_stack += layers_per_block
            first_layer += stage.blocks * layers_per_block
        return h.astype(self.arch.dtype), collected

    def signals(self, h: Array, ctx: ForwardContext) -> list[Array]:
        """The signals h_0 to h_N [B, …] of a network whose layers do not share weights.

        They may differ in shape between the stages of a network. All of them are stored: this is
        for diagnostics, not for training. It costs one forward pass.

        Args:
            h: the first layer's input.
            ctx: the context of the pass. Running statistics are not updated, so it must be one of
                evaluation where there is batch norm.
        """
        h = h.astype(self.arch.signal_dtype)
        collected = [h]
        stacks = list(self.stages)
        layer_number = 0
        for stage in self.arch.plan:
            layers_per_block = len(stage.parts)
            split = _split_stacks(stacks[:layers_per_block], self.arch, stage, ctx.hp)
            stacks = stacks[layers_per_block:]
            for block in range(stage.blocks):
                for layer, stacked, states in zip(
                    split.layers, split.params, split.states, strict=True
                ):
                    params = jax.tree.map(operator.itemgetter(block), stacked)
                    state = jax.tree.map(operator.itemgetter(block), states)
                    number = jnp.int32(layer_number)
                    h, _, _ = layer(params, state, h, {}, ctx, number)
                    collected.append(h)
                    layer_number += 1
        return collected

    def _run_steps(
        self,
        x: Array,
        h: Array,
        slots: Slots,
        ctx: ForwardContext,
    ) -> tuple[Array, list[Statistics]]:
        """Runs one layer for each time step; each step taps the weights that all steps share."""
        arch = self.arch
        step_inputs = self._step_inputs(x, ctx)
        graph, params, others = nnx.split(self.cell, nnx.Param, ...)

        def body(h: Array, step: Step) -> tuple[Array, tuple]:
            tapped = tap(params, step.slots.get(GRAD_NORM.name), reduce=psum_tree)
            cell = nnx.merge(graph, round_weights(arch, tapped), others)
            step_ctx = dataclasses.replace(ctx, padding_mask=step.padding_mask)
            h, statistics = cell(h, step.slots, step_ctx, step.number, step.inputs)
            state = h if arch.language else None
            return h, (state, statistics)

        if arch.model.recompute:
            body = jax.checkpoint(body, prevent_cse=False)
        padding_mask = None if ctx.padding_mask is None else ctx.padding_mask.T
        numbers = jnp.arange(arch.model.depth)
        steps = Step(numbers, step_inputs.swapaxes(0, 1), slots, padding_mask)
        h, (states, statistics) = jax.lax.scan(body, h, steps)
        if arch.language:
            return states.swapaxes(0, 1), [statistics]
        return h, [statistics]

    def _step_inputs(self, x: Array, ctx: ForwardContext) -> Float[Array, "B T P"]:
        """What each time step reads of the example."""
        if self.embed is not None:
            return self.embed(x, ctx.train)
        numbers = unit_vectors(self.arch, x)
        return numbers.reshape(len(x), self.arch.model.depth, -1)

    def head_input(self, h: Array, ctx: ForwardContext) -> Array:
        """What the head reads of a signal: normalised, activated, and averaged over positions.

        Of several streams it reads the mean.

        Args:
            h: the last layer's output, or another signal of its shape.
            ctx: the context of the pass.

        Returns:
            [B, D], of a language model [B, T, D].
        """
        arch = self.arch
        if arch.has_streams:
            h = mean_of_streams(h, arch.num_streams)
        h = apply_norm(self.norm, h, train=ctx.train)
        if arch.activates_end:
            h = nonlinearity_of(arch, ctx.hp)(h)
        if arch.shares_weights:
            h = h[..., -arch.model.width :]  # of an LSTM's [c, h] the hidden state
        elif ctx.padding_mask is not None:
            h = masked_mean(h, ctx.padding_mask)
        elif h.ndim > 2 and not arch.language:
            positions = tuple(range(1, h.ndim - 1))
            h = jnp.mean(h, axis=positions)
        return h

    def logits(self, h: Array, ctx: ForwardContext) -> Float[Array, "..."]:
        """The outputs [B, C], of a language model [B, T, C], from the last signal ``h``."""
        h = self.head_input(h, ctx)
        if self.arch.width_ratio != 1:
            h = h / self.arch.width_ratio  # the output multiplier of μP
        if self.head is not None:
            return self.head(h)
        return h @ read(self.embed.table.vectors, h.dtype).T


def masked_mean(h: Float[Array, "B T D"], padding_mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    """The mean over the positions that hold tokens."""
    num_tokens = jnp.sum(padding_mask, axis=1, keepdims=True)
    weights = padding_mask / num_tokens
    weights = weights[..., None].astype(h.dtype)
    return jnp.sum(h * weights, axis=1)


def _is_tied(arch: Architecture) -> bool:
    return isinstance(arch.model, Transformer) and arch.model.tied


def _make_head(
    arch: Architecture,
    hp: HParams,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    width = arch.model.width if arch.shares_weights else arch.residual_width
    # Fixup, rule 1: the head's weights are initially 0 (Zhang, Dauphin, Ma 2019, §3).
    factor = 0.0 if arch.skip.kind is SkipKind.fixup else 1.0
    return make_linear(width, arch.classes, **arch.linear_kwargs(hp, rngs), factor=factor)


def _make_stacks(
    arch: Architecture,
    hp: HParams,
    rngs: nnx.Rngs,
) -> list[nnx.Module]:
    """For each stage and part the stack of its layers."""
    stacks = []
    first_layer = 0
    for stage in arch.plan:
        layers_per_block = len(stage.parts)
        for part_index, part in enumerate(stage.parts):
            first_of_part = first_layer + part_index
            layers = first_of_part + layers_per_block * jnp.arange(stage.blocks)
            stacks.append(_make_stack(arch, part, layers, hp, rngs))
        first_layer += stage.blocks * layers_per_block
    return stacks


def _make_stack(
    arch: Architecture,
    part: Part,
    layers: Array,
    hp: HParams,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """One layer for each number in ``layers``, parameters stacked on a leading axis."""

    def make_layer(keys: nnx.Rngs, layer: Array) -> Layer:
        made = Layer(arch, part, layer, hp, rngs=keys)
        if arch.init.layer is not None:
            factor = jnp.where(layer == arch.init.layer, hp.init.layer_gain, 1)
            _multiply_weights(made.branch, factor)
        return made

    return nnx.vmap(make_layer)(rngs.split(len(layers)), layers)


def _multiply_weights(branch: nnx.Module, factor: Array) -> None:
    """Multiplies the matrices and convolutions of a branch in place; biases stay."""

    def multiply(path: tuple, leaf: Array) -> Array:
        is_kernel = "kernel" in [getattr(key, "key", None) for key in path]
        return (leaf * factor).astype(leaf.dtype) if is_kernel else leaf

    params = nnx.state(branch, nnx.Param)
    nnx.update(branch, jax.tree_util.tree_map_with_path(multiply, params))


def _add_axis(statistics: Statistics) -> Statistics:
    return jax.tree.map(lambda value: value[None], statistics)


def _concatenate(parts: Sequence[Statistics]) -> Statistics:
    """Each statistic over all stages, by name in order."""
    by_name: dict[str, list[Array]] = {}
    for part in parts:
        for name, values in part.items():
            by_name.setdefault(name, []).append(values)
    whole = {}
    for name in sorted(by_name):
        whole[name] = jnp.concatenate(by_name[name])
    return whole


def _slice_slots(
    slots: Slots,
    stage: Stage,
    first_layer: int,
) -> Slots:
    """The slots of a stage, [blocks, parts] by gauge."""
    layers_per_block = len(stage.parts)
    end = first_layer + stage.blocks * layers_per_block
    stage_slots = {}
    for name, slot in slots.items():
        values = slot[first_layer:end]
        stage_slots[name] = values.reshape(stage.blocks, layers_per_block, *slot.shape[1:])
    return stage_slots


@dataclass(frozen=True)
class SplitStacks:
    """The layers of a stage without their weights, and the weights.

    Attributes:
        layers: each part of a block.
        params: the stacked parameters of each part.
        states: the stacked running statistics of each part.
    """

    layers: Sequence[StackedLayer]
    params: Sequence[Any]
    states: Sequence[Any]


def _split_stacks(
    stacks: Sequence[Any],
    arch: Architecture,
    stage: Stage,
    hp: HParams,
) -> SplitStacks:
    layers = []
    params = []
    states = []
    for stack, part in zip(stacks, stage.parts, strict=True):
        graph, stack_params, stack_states = nnx.split(stack, nnx.Param, ...)
        layers.append(make_stacked_layer(graph, arch, part, hp))
        params.append(stack_params)
        states.append(stack_states)
    return SplitStacks(layers, params, states)


def _run_stage(
    stacks: Sequence[Any],
    arch: Architecture,
    stage: Stage,
    first_layer: int,
    h: Array,
    slots: Slots,
    ctx: ForwardContext,
    *,
    recompute: bool,
) -> tuple[Array, Statistics]:
    """Runs the blocks of a stage in order and updates the running statistics in ``stacks``.

    Args:
        stacks: for each part of a block its layers, stacked.
        arch: the network.
        stage: the blocks.
        first_layer: the number of the stage's first layer.
        h: the input of the stage.
        slots: zeros [blocks, parts] by gauge.
        ctx: the context of the pass.
        recompute: whether the backward pass computes activations again.

    Returns:
        The last block's output, and statistics [layers] by gauge.
    """
    split = _split_stacks(stacks, arch, stage, ctx.hp)

    def body(h: Array, block: Block) -> tuple[Array, tuple]:
        new_states = []
        collected = []
        for part_index, layer in enumerate(split.layers):
            layer_slots = {name: slot[part_index] for name, slot in block.slots.items()}
            layer_number = first_layer + block.number * len(split.layers) + part_index
            params = block.params[part_index]
            states = block.states[part_index]
            h, statistics, state = layer(params, states, h, layer_slots, ctx, layer_number)
            new_states.append(state)
            collected.append(statistics)
        stacked = jax.tree.map(lambda *each: jnp.stack(each), *collected)
        return h, (tuple(new_states), stacked)

    if recompute:
        # Outside a scan the compiler would merge the second computation with the first.
        body = jax.checkpoint(body, prevent_cse=stage.blocks == 1)
    numbers = jnp.arange(stage.blocks)
    blocks = Block(numbers, tuple(split.params), tuple(split.states), slots)
    num_layers = ctx.hp.num_layers
    if num_layers is None:
        h, (new_states, statistics) = _run_in_order(body, h, blocks, stage.blocks)
    else:

        def layer_body(
            h: Array,
            number: Array,
            layer: tuple[Any, Any, Any],
        ) -> tuple[Array, Any]:
            return body(h, Block(number, *layer))

        layers = (blocks.params, blocks.states, blocks.slots)
        h, (new_states, statistics) = loop_over_layers(layer_body, h, layers, num_layers)
    for stack, state in zip(stacks, new_states, strict=True):
        nnx.update(stack, state)
    return h, jax.tree.map(_merge_first_axes, statistics)


def _merge_first_axes(values: Array) -> Array:
    """[blocks, layers of a block, …] → [layers, …]."""
    other_axes = values.shape[2:]
    return values.reshape(-1, *other_axes)


def _run_in_order(
    body: Callable,
    h: Array,
    blocks: Block,
    count: int,
) -> tuple[Array, Any]:
    """A scan; a single block, which may change the shape of ``h``, runs without one."""
    if count > 1:
        return jax.lax.scan(body, h, blocks)
    first = jax.tree.map(lambda leaf: leaf[0], blocks)
    h, out = body(h, first)
    return h, jax.tree.map(lambda leaf: leaf[None], out)
