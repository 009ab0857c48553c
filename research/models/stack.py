"""The network: embedding → stages of identical blocks → head, each stage one scan over stacked parameters."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from research.gauges.slots import Statistics, tap
from research.models.activation import ACTIVATIONS
from research.models.architecture import Architecture, ForwardContext
from research.models.dense import make_linear
from research.models.embed import make_embed, unit_vectors
from research.models.layer import Layer, Slots, forward
from research.models.norm import apply_norm, make_norm
from research.models.plan import Part, Stage
from research.parallel.collectives import psum_tree


class Stack(nnx.Module):
    """The network. Layers are numbered through all stages in forward order, within a block part by part.

    ``stages`` holds for each stage and part the stack of its layers; a recurrent network has one ``cell`` instead.
    """

    def __init__(self, arch: Architecture, hp: Mapping[str, Array], *, rngs: nnx.Rngs):
        self.arch = arch
        self.embed = make_embed(arch, hp, rngs=rngs)
        if arch.shared:
            self.cell = Layer(arch, arch.plan[0].parts[0], jnp.int32(0), hp, rngs=rngs)
        else:
            self.stages = nnx.List(_stacks(arch, hp, rngs))
        last = arch.norm if arch.placement == "pre" else "none"
        self.norm = make_norm(last, arch.stream, groups=arch.groups, **arch.formats, rngs=rngs)
        factor = 0.0 if arch.skip == "fixup" else 1.0  # Zhang, Dauphin, Ma 2019, §3, rule 1
        width = arch.width if arch.shared else arch.stream
        self.head = (
            None
            if arch.tied
            else make_linear(width, arch.classes, **arch.weights(hp, rngs), factor=factor)
        )

    def __call__(
        self, x: Array, slots: Slots, ctx: ForwardContext
    ) -> tuple[Float[Array, "..."], Statistics]:
        """Logits [B, C] (of a language model [B, T, C]), and the forward statistics of every layer in forward order.

        Args:
            x: numbers [B, inputs] or tokens [B, T].
            slots: zeros, by the name of the gauge that comes back as their gradient: ``signal_grad`` [N+1] (index
                0 is the embedding's output), ``branch_grad`` and ``skip_grad`` [N], of a recurrent network
                ``grad_norm`` [N]; a name left out is not measured.
            ctx: the numbers of this pass and what to measure.
        """
        ctx = dataclasses.replace(ctx, padding_mask=x != 0) if self.arch.padded else ctx
        first = {name: slot[0] for name, slot in slots.items() if name == "signal_grad"}
        inner = {name: slot[1:] if name == "signal_grad" else slot for name, slot in slots.items()}
        h = tap(self.begin(x, ctx), first.get("signal_grad"))
        begun = jax.tree.map(lambda s: s[None], forward(self.arch, h, ctx, 0))
        h, statistics = (
            self._through_time(x, h, inner, ctx)
            if self.arch.shared
            else self.through(h, inner, ctx)
        )
        return self._end(h, ctx), _concatenate([begun, *statistics])

    def begin(self, x: Array, ctx: ForwardContext) -> Array:
        """The first layer's input."""
        if self.arch.shared:
            return jnp.zeros((len(x), self.arch.state), self.arch.dtype)
        h = self.embed(x, ctx.train) if self.arch.kind != "mlp" else self.embed(x)
        wider = self.arch.stream - h.shape[-1] if self.arch.skip == "dense" else 0
        return jnp.pad(h, [(0, 0)] * (h.ndim - 1) + [(0, wider)]) if wider else h

    def through(
        self, h: Array, slots: Slots, ctx: ForwardContext
    ) -> tuple[Array, list[Statistics]]:
        """The last layer's output, and the statistics of each stage; of networks whose layers have weights each."""
        collected = []
        start = 0
        stack = 0
        for stage in self.arch.plan:
            layers = stage.blocks * len(stage.parts)
            form = stage.blocks, len(stage.parts)
            own = {name: slot[start : start + layers] for name, slot in slots.items()}
            own = {name: slot.reshape(*form, *slot.shape[1:]) for name, slot in own.items()}
            stacks = list(self.stages)[stack : stack + len(stage.parts)]
            h, statistics = _scan(stacks, stage, start, h, own, ctx, self.arch.recompute)
            collected.append(statistics)
            start = start + layers
            stack = stack + len(stage.parts)
        return h, collected

    def _through_time(
        self, x: Array, h: Array, slots: Slots, ctx: ForwardContext
    ) -> tuple[Array, list[Statistics]]:
        """One layer a step, each with its own tap on the weights that all of them share."""
        if self.embed is None:
            given = unit_vectors(self.arch, x).reshape(len(x), self.arch.depth, -1)
        else:
            given = self.embed(x, ctx.train)
        graph, params, rest = nnx.split(self.cell, nnx.Param, ...)

        def body(h: Array, step: tuple) -> tuple[Array, tuple]:
            layer, piece, slots, real = step
            cell = nnx.merge(graph, tap(params, slots.get("grad_norm"), reduce=psum_tree), rest)
            h, statistics = cell(
                h, slots, dataclasses.replace(ctx, padding_mask=real), layer, piece
            )
            return h, (h if self.arch.language else None, statistics)

        real = None if ctx.padding_mask is None else ctx.padding_mask.T
        steps = jnp.arange(self.arch.depth), given.swapaxes(0, 1), slots, real
        body = jax.checkpoint(body, prevent_cse=False) if self.arch.recompute else body
        h, (states, statistics) = jax.lax.scan(body, h, steps)
        return states.swapaxes(0, 1) if self.arch.language else h, [statistics]

    def _end(self, h: Array, ctx: ForwardContext) -> Array:
        """From the last layer's output to logits."""
        arch = self.arch
        h = apply_norm(self.norm, h, train=ctx.train)
        if arch.activates_end:
            h = ACTIVATIONS[arch.activation](h)
        if arch.shared:
            h = h[..., -arch.width :]  # of an LSTM's [c, h] the latter
        elif ctx.padding_mask is not None:
            h = masked_mean(h, ctx.padding_mask)
        elif h.ndim > 2 and not arch.language:
            h = jnp.mean(h, axis=tuple(range(1, h.ndim - 1)))
        return (
            self.head(h)
            if self.head is not None
            else h @ self.embed.table.vectors[...].astype(h.dtype).T
        )


def masked_mean(h: Float[Array, "B T D"], real: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    """The mean over the positions that hold tokens."""
    weights = real / jnp.sum(real, axis=1, keepdims=True)
    return jnp.sum(h * weights[..., None].astype(h.dtype), axis=1)


def _stacks(arch: Architecture, hp: Mapping[str, Array], rngs: nnx.Rngs) -> list[nnx.Module]:
    stacks = []
    start = 0
    for stage in arch.plan:
        for place, part in enumerate(stage.parts):
            layers = start + place + len(stage.parts) * jnp.arange(stage.blocks)
            stacks.append(_stack(arch, part, layers, hp, rngs))
        start += stage.blocks * len(stage.parts)
    return stacks


def _stack(
    arch: Architecture, part: Part, layers: Array, hp: Mapping[str, Array], rngs: nnx.Rngs
) -> nnx.Module:
    """One layer for each number in ``layers``, parameters stacked on a leading axis."""
    make = nnx.vmap(lambda keys, layer: Layer(arch, part, layer, hp, rngs=keys))
    return make(rngs.split(len(layers)), layers)


def _concatenate(parts: list[Statistics]) -> Statistics:
    names = {name for part in parts for name in part}
    return {
        name: jnp.concatenate([part[name] for part in parts if name in part])
        for name in sorted(names)
    }


def _scan(
    stacks: list[Any],
    stage: Stage,
    start: int,
    h: Array,
    slots: Slots,
    ctx: ForwardContext,
    recompute: bool,
) -> tuple[Array, Statistics]:
    """Runs a stage's blocks one after the other; running statistics are put back into ``stacks``."""
    graphs, params, rests = zip(
        *(nnx.split(stack, nnx.Param, ...) for stack in stacks), strict=True
    )

    def body(h: Array, block: tuple) -> tuple[Array, tuple]:
        number, params, rests, slots = block
        seen = []
        collected = []
        for place, graph in enumerate(graphs):
            layer = nnx.merge(graph, params[place], rests[place])
            own = {name: slot[place] for name, slot in slots.items()}
            h, statistics = layer(h, own, ctx, start + number * len(graphs) + place)
            seen.append(nnx.state(layer, nnx.Not(nnx.Param)))
            collected.append(statistics)
        return h, (tuple(seen), jax.tree.map(lambda *each: jnp.stack(each), *collected))

    # Only in a scan is the compiler kept from merging the second computation with the first by itself.
    body = jax.checkpoint(body, prevent_cse=stage.blocks == 1) if recompute else body
    h, (rests, statistics) = _in_turn(
        body, h, (jnp.arange(stage.blocks), params, rests, slots), stage.blocks
    )
    for stack, rest in zip(stacks, rests, strict=True):
        nnx.update(stack, rest)
    return h, jax.tree.map(lambda values: values.reshape(-1), statistics)


def _in_turn(body: Callable, h: Array, blocks: Any, count: int) -> tuple[Array, Any]:
    """A scan; of a single block, which may change the shape of ``h``, without one."""
    if count > 1:
        return jax.lax.scan(body, h, blocks)
    h, out = body(h, jax.tree.map(lambda leaf: leaf[0], blocks))
    return h, jax.tree.map(lambda leaf: leaf[None], out)
