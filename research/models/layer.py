"""One layer: its branch, its normalisation, its shortcut, and the probes that measure it."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.gauges.slots import Statistics, forward_statistics, tap
from research.models.activation import ACTIVATIONS
from research.models.architecture import Architecture, ForwardContext
from research.models.attention import Attention
from research.models.feed_forward import FeedForwardBranch
from research.models.norm import apply_norm, make_norm
from research.models.plan import Part
from research.models.recurrent import Cell
from research.models.rounding import rounded
from research.models.skip import Skip

Slots = dict[str, Array]


class Layer(nnx.Module):
    """skip(h, branch(h)), with its normalisation before the branch, behind it, or behind the sum."""

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
        width = part.inputs if arch.placement == "pre" else part.outputs
        self.norm = make_norm(arch.norm, width, groups=arch.groups, **arch.formats, rngs=rngs)
        self.recurrent = part.kind == "cell"
        self.branch: Any
        if part.kind == "attention":
            self.branch = Attention(arch, hp, rngs=rngs)
        elif self.recurrent:
            self.branch = Cell(arch, pieces(arch), hp, rngs=rngs)
        else:
            self.branch = FeedForwardBranch(arch, part, layer, hp, rngs=rngs)
        self.skip = Skip(arch, part, hp, rngs=rngs)

    def _normed(self, h: Array, place: str, ctx: ForwardContext) -> Array:
        return apply_norm(self.norm, h, train=ctx.train) if place == self.arch.placement else h

    def __call__(
        self,
        h: Float[Array, "..."],
        slots: Slots,
        ctx: ForwardContext,
        layer: Array,
        piece: Array | None = None,
    ) -> tuple[Float[Array, "..."], Statistics]:
        """The output and the forward statistics of layer ``layer``; ``slots`` receive what arrives backward.

        ``piece`` [B, P] is what a recurrent layer reads of the example.
        """
        z = self._normed(tap(h, slots.get("branch_grad")), "pre", ctx)
        z = rounded(z, self.arch.rounding, self.arch.tensor_scale)
        branch, statistics = (
            self.branch(z, piece, ctx) if self.recurrent else self.branch(z, ctx, layer)
        )
        branch = self._normed(branch, "branch", ctx)
        out = self._normed(
            self.skip(tap(h, slots.get("skip_grad")), branch, ctx, layer), "post", ctx
        )
        if self.arch.activates_sum:
            out = ACTIVATIONS[self.arch.activation](self.branch.shifted(out, 0, 0))
        if (
            self.recurrent and ctx.padding_mask is not None
        ):  # behind a text's end its state stays what it is
            out = jnp.where(ctx.padding_mask[:, None], out, h)
        h = tap(out, slots.get("signal_grad"))
        return h, statistics | forward(self.arch, h, ctx, layer + 1)


def forward(arch: Architecture, h: Array, ctx: ForwardContext, layer: int | Array) -> Statistics:
    """The statistics of the signal in front of layer ``layer``, over the units that have a value."""
    return (
        forward_statistics(h, arch.written(layer) / arch.stream) if ctx.collect_activations else {}
    )


def pieces(arch: Architecture) -> int:
    """How many numbers of the example a recurrent layer reads."""
    if arch.vocabulary:
        return arch.vocabulary if arch.one_hot else arch.width
    return arch.inputs // arch.depth
