"""The branch of a layer without memory: weights in a row, each behind a nonlinearity."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.gauges.slots import Statistics
from research.models.activation import ACTIVATIONS, unit_statistics
from research.models.architecture import Architecture, ForwardContext
from research.models.conv import Conv
from research.models.dense import make_linear
from research.models.norm import apply_norm, make_norm
from research.models.plan import Part
from research.parallel.collectives import sample_then_shard


class FeedForwardBranch(nnx.Module):
    """F(z) = W_m φ(… W_1 φ(z)), m = 1 for ``dense`` and ``conv``, 2 for ``basic``, 3 for ``bottleneck``.

    Nonlinearity first: the order that mean-field theory is written in, and that of pre-activation residual networks.
    Not first where it stands behind the sum (the original order of ResNets), and in ``feedforward``, W_2 φ(W_1 z).
    Inside ResNets' branches a normalisation stands in front of each nonlinearity (He et al. 2016, Fig. 5); a
    bottleneck's stride is that of its 3×3 convolution, where theirs is that of the 1×1 before it.

    Of the weights, ``fixup`` begins the last with 0 and the others N^(-1/(2m-2)) times as large, and puts a scalar
    bias in front of every nonlinearity and weight (Zhang, Dauphin, Ma 2019, §3); ``deepnorm`` begins all of them
    β times as large.
    """

    def __init__(
        self,
        arch: Architecture,
        part: Part,
        layer: Array,
        hp: Mapping[str, Array],
        *,
        rngs: nnx.Rngs,
    ):
        self.arch = arch
        self.first = not arch.activates_sum and part.kind != "feedforward"
        bias = arch.bias and not arch.normalises_inside and arch.skip != "fixup"
        how = arch.weights(hp, rngs, bias=bias)
        widths = _widths(arch, part)
        factors = _factors(arch, len(widths), layer)
        self.weights = nnx.List(
            [
                _weight(arch, *width, **how, factor=factor)
                for width, factor in zip(widths, factors, strict=True)
            ]
        )
        inner = [
            make_norm(arch.norm, width[0], groups=arch.groups, **arch.formats, rngs=rngs)
            for width in widths[1:]
        ]
        self.norms = nnx.List([None, *inner]) if arch.normalises_inside else None
        self.shifts = (
            nnx.Param(jnp.zeros((len(widths), 2), arch.param_dtype))
            if arch.skip == "fixup"
            else None
        )

    def __call__(
        self, z: Float[Array, "..."], ctx: ForwardContext, layer: Array
    ) -> tuple[Float[Array, "..."], Statistics]:
        """The branch's output and, where they are asked for, the mean statistics of its nonlinearities."""
        statistics = []
        for n, weight in enumerate(self.weights):
            if n or self.first:
                z = apply_norm(self.norms[n], z, train=ctx.train) if self.norms else z
                z = self.shifted(z, n, 0)
                counted = self._written(z, layer) if self.arch.skip == "dense" else None
                statistics += (
                    [unit_statistics(self.arch.activation, z, counted=counted)]
                    if ctx.collect_unit_stats
                    else []
                )
                z = self._masked(ACTIVATIONS[self.arch.activation](z), layer)
            if n == len(self.weights) - 1:
                z = dropout(self.arch, z, ctx, layer)
            z = weight(self.shifted(z, n, 1))
        return z, jax.tree.map(
            lambda *each: sum(each) / len(each), *statistics
        ) if statistics else {}

    def shifted(self, z: Array, n: int, place: int) -> Array:
        """Fixup's bias in front of nonlinearity (``place`` 0) or weight (1) ``n``; elsewhere ``z`` as it is."""
        return z if self.shifts is None else z + self.shifts[n, place].astype(z.dtype)

    def _written(self, z: Array, layer: Array) -> Array:
        """Which units of a stream that layers write into one after the other are written already."""
        return jnp.arange(z.shape[-1]) < self.arch.written(layer)

    def _masked(self, z: Array, layer: Array) -> Array:
        if self.arch.skip != "dense":
            return z
        return z * self._written(z, layer).astype(z.dtype).reshape((1,) * (z.ndim - 1) + (-1,))


def dropout(arch: Architecture, z: Array, ctx: ForwardContext, layer: Array) -> Array:
    """Dropout, scaled in training (Srivastava et al. 2014, §10)."""
    if not (arch.dropout and ctx.train):
        return z
    rate = ctx.hp["model.dropout"]
    kept = sample_then_shard(
        partial(jax.random.bernoulli, ctx.layer_key(layer, 1), 1 - rate), z.shape
    )
    return z * (kept / (1 - rate)).astype(z.dtype)


def _widths(arch: Architecture, part: Part) -> list[tuple[int, int, int, int]]:
    """Inputs, outputs, kernel size and stride of each weight; size 0 is a map of the last axis alone."""
    inputs = part.inputs
    outputs = arch.growth if arch.skip == "dense" else part.outputs
    narrow = outputs // 4
    wide = arch.width * arch.expansion
    return {
        "dense": [(inputs, outputs, 0, 1)],
        "conv": [(inputs, outputs, 3, 1)],
        "basic": [(inputs, outputs, 3, part.stride), (outputs, outputs, 3, 1)],
        "bottleneck": [
            (inputs, narrow, 0, 1),
            (narrow, narrow, 3, part.stride),
            (narrow, outputs, 0, 1),
        ],
        "feedforward": [(inputs, wide, 0, 1), (wide, outputs, 0, 1)],
    }[part.kind]


def _weight(
    arch: Architecture, inputs: int, outputs: int, size: int, stride: int, **how: Any
) -> nnx.Module:
    if not size:
        return make_linear(inputs, outputs, **how)
    return Conv(inputs, outputs, size=size, stride=stride, padding=arch.padding, **how)


def _factors(arch: Architecture, weights: int, layer: Array) -> list[Any]:
    """What the weights are drawn times of."""
    match arch.skip:
        case "fixup":
            inner = weights - 1
            return [arch.layers ** (-1 / (2 * inner))] * inner + [0.0] if inner else [0.0]
        case "deepnorm":
            return [arch.deepnorm[1]] * weights
        case "dense":  # the fan is that of the units written already
            return [jnp.sqrt(arch.stream / arch.written(layer))]
    return [1.0] * weights
