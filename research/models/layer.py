"""One layer: its branch, its normalisation, its shortcut, and the probes that measure it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.config.options import Placement
from research.gauges.exponents import exponent_counts
from research.gauges.slots import Statistics, tap
from research.gauges.table import BRANCH_GRAD, SIGNAL_GRAD, SKIP_GRAD, Site, measure_at
from research.models.activation import ACTIVATIONS
from research.models.architecture import BEFORE_BRANCH, Architecture, ForwardContext
from research.models.attention import Attention
from research.models.block_rounding import round_value_and_gradient
from research.models.feed_forward import FeedForwardBranch
from research.models.hparams import HParams
from research.models.norm import apply_norm, make_norm
from research.models.plan import Part
from research.models.recurrent import Cell
from research.models.rounding import round_through_format
from research.models.skip import Skip

Slots = dict[str, Array]
ACTIVATION_COUNTS = "activation_counts"  # the statistic of ``ForwardContext.counts_exponents``


class Layer(nnx.Module):
    """skip(h, branch(h)), normalised before the branch, at its end, both (``peri``), or after the
    sum.

    References:
        Kim et al., Peri-LN: revisiting normalization layer in the transformer architecture, 2025.
        Sun et al., The curse of depth in large language models, 2025 (``norm.scale``).
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
        self.is_recurrent = part.kind == "cell"
        before_branch = arch.norm.placement in BEFORE_BRANCH
        width = part.inputs if before_branch else part.outputs
        self.norm = make_norm(arch.norm, width, **arch.formats, rngs=rngs)
        if arch.norm.placement is Placement.peri:
            self.end_norm = make_norm(arch.norm, part.outputs, **arch.formats, rngs=rngs)
        self.branch: Any
        if part.kind == "attention":
            self.branch = Attention(arch, hp, rngs=rngs)
        elif self.is_recurrent:
            self.branch = Cell(arch, numbers_per_step(arch), hp, rngs=rngs)
        else:
            self.branch = FeedForwardBranch(arch, part, layer, hp, rngs=rngs)
        self.skip = Skip(arch, part, hp, rngs=rngs, layer=layer)

    def __call__(
        self,
        h: Float[Array, "..."],
        slots: Slots,
        ctx: ForwardContext,
        layer: Array,
        step_input: Array | None = None,
    ) -> tuple[Float[Array, "..."], Statistics]:
        """The output and the forward statistics of layer ``layer``.

        Args:
            h: the layer's input.
            slots: zeros whose gradients become what arrives backward, by gauge.
            ctx: the context of the pass.
            layer: the layer's number, from 0.
            step_input: what a recurrent layer reads of the example, [B, P].
        """
        z = self.skip.read(tap(h, slots.get(BRANCH_GRAD.name)))
        z = self._normalize(z, Placement.pre, ctx)
        if self.arch.scales_norm:
            z = z * self._norm_scale(layer).astype(z.dtype)
        z = self._round(z, ctx, layer)
        if self.is_recurrent:
            branch, statistics = self.branch(z, step_input, ctx)
        else:
            branch, statistics = self.branch(z, ctx, layer)
        if ctx.counts_exponents:
            counts = exponent_counts(jax.lax.stop_gradient(z))
            statistics = statistics | {ACTIVATION_COUNTS: counts}
        branch = self._normalize(branch, Placement.branch, ctx)
        if self.arch.branch_factor != 1:
            branch = branch * self.arch.branch_factor
        shortcut = tap(h, slots.get(SKIP_GRAD.name))
        out = self.skip(shortcut, branch, ctx, layer)
        out = self._normalize(out, Placement.post, ctx)
        if self.arch.activates_sum:
            activation = ACTIVATIONS[self.arch.activation.kind.name]
            out = activation(self.branch.add_fixup_bias(out, 0, before="nonlinearity"))
        if self.is_recurrent and ctx.padding_mask is not None:
            # After the end of a text the state stays what it is.
            out = jnp.where(ctx.padding_mask[:, None], out, h)
        h = tap(out, slots.get(SIGNAL_GRAD.name))
        return h, statistics | signal_statistics(self.arch, h, ctx, layer + 1)

    def _normalize(
        self,
        h: Array,
        place: Placement,
        ctx: ForwardContext,
    ) -> Array:
        """The signal after the norm at one of the three places, or as it is where there is none."""
        placement = self.arch.norm.placement
        if placement is Placement.peri and place is Placement.branch:
            return apply_norm(self.end_norm, h, train=ctx.train)
        has_norm = place is placement or (placement is Placement.peri and place is Placement.pre)
        return apply_norm(self.norm, h, train=ctx.train) if has_norm else h

    def _round(
        self,
        z: Array,
        ctx: ForwardContext,
        layer: Array,
    ) -> Array:
        """What the branch reads, in the run's narrower format; as it is where there is none."""
        arch = self.arch
        if not arch.block_scale:
            return round_through_format(z, arch.rounding, arch.tensor_scale)
        is_stochastic = arch.rounds_stochastically and ctx.key is not None
        key = ctx.layer_key(layer, 2) if is_stochastic else None
        return round_value_and_gradient(z, arch.block_scale, key)

    def _norm_scale(self, layer: Array) -> Array:
        """1/√l for the layers of block l, counted from 1."""
        block = layer // len(self.arch.plan[0].parts) + 1
        wide = jnp.promote_types(self.arch.dtype, jnp.float32)
        return jax.lax.rsqrt(jnp.asarray(block, wide))


def signal_statistics(
    arch: Architecture,
    h: Array,
    ctx: ForwardContext,
    layer: int | Array,
) -> Statistics:
    """The statistics of the input of layer ``layer``, over the units that have a value.

    Args:
        arch: the network.
        h: the input [B, …, D].
        ctx: ``ctx.level`` selects the gauges.
        layer: the layer's number; N is the output of the last layer.
    """
    active_share = arch.num_active_units(layer) / arch.residual_width
    stopped = jax.lax.stop_gradient(h)
    statistics = measure_at(Site.FORWARD, ctx.level, stopped, active_share)
    if arch.attends:
        statistics = statistics | measure_at(Site.TOKENS, ctx.level, stopped, ctx.padding_mask)
    return statistics


def numbers_per_step(arch: Architecture) -> int:
    """How many numbers of the example a recurrent layer reads."""
    if not arch.vocabulary:
        return arch.inputs // arch.model.depth
    return arch.vocabulary if arch.one_hot else arch.model.width
