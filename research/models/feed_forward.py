"""The branch of a layer without memory: weights in a row, each after a nonlinearity."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.config.options import Padding, SkipKind, Transformer
from research.gauges.norms import accumulator
from research.gauges.slots import Statistics
from research.gauges.table import Site, not_measured_at
from research.models.activation import mean_statistics, nonlinearity_of, unit_statistics
from research.models.architecture import Architecture, ForwardContext
from research.models.conv import Conv
from research.models.dense import make_linear
from research.models.hparams import HParams
from research.models.norm import apply_norm, make_norm
from research.models.plan import BOTTLENECK_EXPANSION, Part
from research.models.units import align_units
from research.parallel.collectives import sample_then_shard


@dataclass(frozen=True)
class WeightShape:
    """Inputs, outputs, kernel size and stride of a map; size 0 is a map of the last axis alone."""

    inputs: int
    outputs: int
    size: int = 0
    stride: int = 1


class FeedForwardBranch(nnx.Module):
    """Nonlinearities and weights in turn: F(z) = W_m φ(… W_1 φ(z)).

    m is ``model.branch_weights`` for ``dense``, 1 for ``conv``, 2 for ``basic``, and 3 for
    ``bottleneck``.

    The nonlinearity comes first: the order of mean-field theory and of pre-activation residual
    networks. It does not come first where it follows the sum (the original order of ResNets), and
    in ``feedforward``, W_2 φ(W_1 z). Inside ResNets' branches a normalisation precedes each
    nonlinearity (He et al. 2016, Fig. 5); a bottleneck's stride is that of its 3×3 convolution,
    where theirs is that of the 1×1 before it.

    ``fixup`` initialises the last weights to 0 and scales the others by N^(-1/(2m-2)), and adds a
    scalar bias before every nonlinearity and weight (Zhang, Dauphin, Ma 2019, §3). ``deepnorm``
    scales all weights by β.
    """

    def __init__(
        self,
        arch: Architecture,
        part: Part,
        layer: Array,
        hp: HParams,
        *,
        rngs: nnx.Rngs,
    ):
        self.arch = arch
        self.activates_first = not arch.activates_sum and part.kind != "feedforward"
        has_fixup = arch.skip.kind is SkipKind.fixup
        has_bias = arch.model.bias and not arch.normalises_inside and not has_fixup
        kwargs = arch.linear_kwargs(hp, rngs, bias=has_bias)
        shapes = _weight_shapes(arch, part)
        factors = _initial_factors(arch, len(shapes), layer)
        self.weights = nnx.List()
        for shape, factor in zip(shapes, factors, strict=True):
            self.weights.append(_make_weight(arch, shape, factor=factor, **kwargs))
        inner_norms = []
        for shape in shapes[1:]:  # made in any case: each one advances the random keys
            inner_norms.append(make_norm(arch.norm, shape.inputs, **arch.formats, rngs=rngs))
        self.norms = nnx.List([None, *inner_norms]) if arch.normalises_inside else None
        shifts = jnp.zeros((len(shapes), 2), arch.param_dtype)
        self.shifts = nnx.Param(shifts) if has_fixup else None

    def __call__(
        self,
        z: Float[Array, "..."],
        ctx: ForwardContext,
        layer: Array,
    ) -> tuple[Float[Array, "..."], Statistics]:
        """The branch's output, and the mean statistics of its nonlinearities.

        Args:
            z: the branch's input.
            ctx: the context of the pass; ``ctx.level`` selects the gauges.
            layer: the layer's number.
        """
        nonlinearity = nonlinearity_of(self.arch, ctx.hp)
        statistics = []
        last = len(self.weights) - 1
        for index, weight in enumerate(self.weights):
            if index > 0 or self.activates_first:
                if self.norms:
                    z = apply_norm(self.norms[index], z, train=ctx.train)
                z = self.add_fixup_bias(z, index, before="nonlinearity")
                active = self._active_units(z, layer)
                statistics.append(unit_statistics(nonlinearity, z, ctx.level, active))
                z = self._mask_inactive(nonlinearity(z), layer)
            if index == last:
                z = dropout(self.arch, z, ctx, layer)
            z = weight(self.add_fixup_bias(z, index, before="weight"))
        measured = mean_statistics(statistics)
        if self.arch.attends:
            wide = accumulator(z.dtype)
            measured = measured | not_measured_at(Site.ATTENTION, ctx.level, wide)
        return z, measured

    def add_fixup_bias(
        self,
        z: Array,
        index: int,
        *,
        before: Literal["nonlinearity", "weight"],
    ) -> Array:
        """With ``skip=fixup``, adds a learned scalar; otherwise returns ``z``.

        Args:
            z: the signal [B, …, units].
            index: the number of the weight in the branch, from 0.
            before: whether the scalar is that before the weight's nonlinearity or before the
                weight itself.
        """
        if self.shifts is None:
            return z
        column = 0 if before == "nonlinearity" else 1
        return z + self.shifts[index, column].astype(z.dtype)

    def _active_units(self, z: Array, layer: Array) -> Array | None:
        """Which units hold a value, with ``skip=dense``; None where all do."""
        if not self.arch.growth:
            return None
        return jnp.arange(z.shape[-1]) < self.arch.num_active_units(layer)

    def _mask_inactive(self, z: Array, layer: Array) -> Array:
        active = self._active_units(z, layer)
        if active is None:
            return z
        return z * align_units(active.astype(z.dtype), z)


def dropout(
    arch: Architecture,
    z: Array,
    ctx: ForwardContext,
    layer: Array,
) -> Array:
    """Dropout, scaled in training (Srivastava et al. 2014, §10).

    Args:
        arch: the network.
        z: the signal [B, …, units].
        ctx: the context of the pass.
        layer: the layer's number, which decides the random mask.
    """
    if not (arch.has_dropout and ctx.train):
        return z
    rate = ctx.hp.dropout_rate
    draw = partial(jax.random.bernoulli, ctx.layer_key(layer, 1), 1 - rate)
    kept = sample_then_shard(draw, z.shape)
    return z * (kept / (1 - rate)).astype(z.dtype)


def _weight_shapes(arch: Architecture, part: Part) -> list[WeightShape]:
    inputs = part.inputs
    outputs = arch.growth or part.outputs
    match part.kind:
        case "dense":
            inner = [WeightShape(inputs, inputs)] * (arch.branch_weights - 1)
            return [*inner, WeightShape(inputs, outputs)]
        case "conv":
            return [WeightShape(inputs, outputs, 3)]
        case "basic":
            return [WeightShape(inputs, outputs, 3, part.stride), WeightShape(outputs, outputs, 3)]
        case "bottleneck":
            narrow = outputs // BOTTLENECK_EXPANSION
            return [
                WeightShape(inputs, narrow),
                WeightShape(narrow, narrow, 3, part.stride),
                WeightShape(narrow, outputs),
            ]
        case "feedforward":
            assert isinstance(arch.model, Transformer)
            wide = arch.model.width * arch.model.expansion
            return [WeightShape(inputs, wide), WeightShape(wide, outputs)]
    raise ValueError(f"a branch must be one of those described above, got {part.kind}")


def _make_weight(
    arch: Architecture,
    shape: WeightShape,
    *,
    factor: float | Array,
    **kwargs: Any,
) -> nnx.Module:
    if not shape.size:
        return make_linear(shape.inputs, shape.outputs, factor=factor, **kwargs)
    return Conv(
        shape.inputs,
        shape.outputs,
        size=shape.size,
        stride=shape.stride,
        padding=getattr(arch.model, "padding", Padding.zero).name,
        factor=factor,
        **kwargs,
    )


def _initial_factors(
    arch: Architecture,
    count: int,
    layer: Array,
) -> list[float | Array]:
    """Scale factors applied to the initial weights of a branch with ``count`` weights."""
    match arch.skip.kind:
        case SkipKind.fixup:
            inner = count - 1
            if not inner:
                return [0.0]
            return [arch.layers ** (-1 / (2 * inner))] * inner + [0.0]
        case SkipKind.deepnorm:
            return [arch.deepnorm_beta] * count
        case SkipKind.dense:  # the fan-in counts the units that hold a value
            return [jnp.sqrt(arch.residual_width / arch.num_active_units(layer))]
    return [1.0] * count
