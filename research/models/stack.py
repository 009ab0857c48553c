"""The network: embed → stages of identical blocks → head, each stage one scan over stacked parameters."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.gauges.slots import forward_statistics, tap
from research.models.activation import ACTIVATIONS
from research.models.dense import DenseBranch, make_linear
from research.models.norm import apply_norm, make_norm
from research.models.skip import Skip

Slots = dict[str, Array]
Statistics = dict[str, Array]


@dataclass(frozen=True)
class Architecture:
    """What decides the shapes and the operations of a network: all names and integers, hashable."""

    inputs: int
    classes: int
    depth: int
    width: int
    bias: bool
    activation: str
    init: str
    skip: str
    norm: str
    placement: str
    dtype: str
    param_dtype: str

    @property
    def formats(self) -> dict[str, jnp.dtype]:
        """The arithmetic's and the parameters' number formats, as layers take them."""
        return {"dtype": jnp.dtype(self.dtype), "param_dtype": jnp.dtype(self.param_dtype)}


@dataclass(frozen=True)
class Pass:
    """What one pass through the network is told: its numbers, whether it trains, what it is asked to measure."""

    hp: Mapping[str, Array]
    train: bool
    forward: bool = False  # activation_rms, activation_mean
    units: bool = False  # saturated, dead


class Block(nnx.Module):
    """One layer: skip(h, branch(h)), with its normalisation before the branch, behind it, or behind the sum."""

    def __init__(self, arch: Architecture, hp: Mapping[str, Array], *, rngs: nnx.Rngs):
        self.placement = arch.placement
        self.norm = make_norm(arch.norm, arch.width, **arch.formats, rngs=rngs)
        self.branch = DenseBranch(
            arch.width, arch.activation, init=arch.init, bias=arch.bias, hp=hp, **arch.formats, rngs=rngs
        )
        self.skip = Skip(arch.skip, arch.depth, param_dtype=jnp.dtype(arch.param_dtype))

    def _normed(self, h: Array, place: str, train: bool) -> Array:
        return apply_norm(self.norm, h, train=train) if place == self.placement else h

    def __call__(self, h: Float[Array, "..."], slots: Slots, told: Pass) -> tuple[Float[Array, "..."], Statistics]:
        """The block's output and its forward statistics; ``slots`` receive what arrives backward."""
        into_branch = self._normed(tap(h, slots.get("branch_grad")), "pre", told.train)
        branch, statistics = self.branch(into_branch, units=told.units)
        branch = self._normed(branch, "branch", told.train)
        h = self._normed(self.skip(tap(h, slots.get("skip_grad")), branch, told.hp), "post", told.train)
        return tap(h, slots.get("signal_grad")), statistics | _forward(h, told)


class Stack(nnx.Module):
    """The network. Layers are numbered through all stages in forward order."""

    def __init__(self, arch: Architecture, hp: Mapping[str, Array], *, rngs: nnx.Rngs):
        linear = {"init": arch.init, "bias": arch.bias, "hp": hp, **arch.formats, "rngs": rngs}
        self.activation = arch.activation
        self.embed = make_linear(arch.inputs, arch.width, **linear)
        make_block = nnx.vmap(lambda keys: Block(arch, hp, rngs=keys))
        self.stages = nnx.List([make_block(rngs.split(arch.depth))])
        self.norm = make_norm(arch.norm if arch.placement == "pre" else "none", arch.width, **arch.formats, rngs=rngs)
        self.head = make_linear(arch.width, arch.classes, **linear)

    def __call__(self, x: Float[Array, "B inputs"], slots: Slots, told: Pass) -> tuple[Float[Array, "B C"], Statistics]:
        """Logits, and the forward statistics of every layer, stacked in forward order.

        Args:
            x: the inputs.
            slots: zeros, by the name of the gauge that comes back as their gradient: ``signal_grad`` [N+1] (index
                0 is the embedding's output), ``branch_grad`` and ``skip_grad`` [N]; a name left out is not
                measured.
            told: the numbers of this pass and what to measure.
        """
        first = {name: slot[0] for name, slot in slots.items() if name == "signal_grad"}
        inner = {name: slot[1:] if name == "signal_grad" else slot for name, slot in slots.items()}
        h = tap(self.embed(x), first.get("signal_grad"))
        collected, start = [jax.tree.map(lambda s: s[None], _forward(h, told))], 0
        for stage in self.stages:
            stop = start + _layers(stage)
            h, statistics = _scan(stage, h, {name: slot[start:stop] for name, slot in inner.items()}, told)
            collected, start = [*collected, statistics], stop
        h = ACTIVATIONS[self.activation](apply_norm(self.norm, h, train=told.train))
        return self.head(h), _concatenate(collected)


def _forward(h: Array, told: Pass) -> Statistics:
    return forward_statistics(h) if told.forward else {}


def _layers(stage: nnx.Module) -> int:
    return jax.tree.leaves(nnx.state(stage, nnx.Param))[0].shape[0]


def _concatenate(parts: list[Statistics]) -> Statistics:
    names = {name for part in parts for name in part}
    return {name: jnp.concatenate([part[name] for part in parts if name in part]) for name in sorted(names)}


def _scan(stage: nnx.Module, h: Array, slots: Slots, told: Pass) -> tuple[Array, Statistics]:
    """Runs a stage's blocks one after the other; running statistics are put back into ``stage``."""
    graph, params, rest = nnx.split(stage, nnx.Param, ...)

    def body(h: Array, layer: tuple) -> tuple[Array, tuple]:
        params, rest, slots = layer
        block = nnx.merge(graph, params, rest)
        h, statistics = block(h, slots, told)
        return h, (nnx.state(block, nnx.Not(nnx.Param)), statistics)

    h, (rest, statistics) = jax.lax.scan(body, h, (params, rest, slots))
    nnx.update(stage, rest)
    return h, statistics
