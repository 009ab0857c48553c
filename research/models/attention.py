"""Multi-head attention, and rotary positions."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from research.config.options import Positions, SkipKind, Transformer
from research.gauges.slots import Statistics
from research.gauges.table import Site, measure_at, not_measured_at
from research.models.architecture import Architecture, ForwardContext
from research.models.dense import make_linear
from research.models.feed_forward import dropout
from research.models.hparams import HParams


class Attention(nnx.Module):
    """Multi-head attention: F(z) = W_o · concat_heads softmax(QKᵀ/√K) V.

    Q, K and V are linear in z (Vaswani et al. 2017, eq. 1).

    A language model's positions do not attend to later ones, and none attends to padding. There is
    no nonlinearity of units, so ``saturated`` and ``dead`` are NaN. ``deepnorm`` scales the initial
    W_v and W_o by β.
    """

    def __init__(
        self,
        arch: Architecture,
        hp: HParams,
        *,
        rngs: nnx.Rngs,
    ):
        assert isinstance(arch.model, Transformer)
        self.arch = arch
        self.heads = arch.model.heads
        self.is_causal = arch.language
        self.is_rotary = arch.model.positions is Positions.rotary
        width = arch.model.width
        late_factor = arch.deepnorm_beta if arch.skip.kind is SkipKind.deepnorm else 1.0

        def make(factor: float) -> nnx.Linear:
            linear_kwargs = arch.linear_kwargs(hp, rngs)
            return make_linear(width, width, **linear_kwargs, factor=factor)

        self.query = make(1.0)
        self.key = make(1.0)
        self.value = make(late_factor)
        self.out = make(late_factor)

    def __call__(
        self,
        z: Float[Array, "B T D"],
        ctx: ForwardContext,
        layer: Array,
    ) -> tuple[Float[Array, "B T D"], Statistics]:
        """The branch's output; the softmax is computed in float32 or wider.

        Args:
            z: the branch's input.
            ctx: the context of the pass.
            layer: the layer's number.
        """
        q = self._split_heads(self.query(z))
        k = self._split_heads(self.key(z))
        v = self._split_heads(self.value(z))
        if self.is_rotary:
            q = rotate(q)
            k = rotate(k)
        scores = self._scores(q, k, ctx)
        wide_weights = jax.nn.softmax(scores)
        weights = wide_weights.astype(z.dtype)
        mixed = jnp.einsum("bhts,bshk->bthk", weights, v)
        mixed = mixed.reshape(z.shape)
        mixed = dropout(self.arch, mixed, ctx, layer)
        of_units = not_measured_at(Site.NONLINEARITY, ctx.level, jnp.float32)
        stopped = jax.lax.stop_gradient((scores, wide_weights))
        of_attention = measure_at(Site.ATTENTION, ctx.level, *stopped, ctx.padding_mask)
        return self.out(mixed), of_units | of_attention

    def _scores(
        self,
        q: Array,
        k: Array,
        ctx: ForwardContext,
    ) -> Float[Array, "B H T T"]:
        """QKᵀ/√K, and −∞ for positions that must not be attended to."""
        wide = jnp.promote_types(q.dtype, jnp.float32)
        scores = jnp.einsum("bthk,bshk->bhts", q, k, preferred_element_type=wide)
        # μP divides by K instead of √K, relative to the base width (Yang et al. 2021, §4).
        head_width = q.shape[-1]
        scores = scores * (head_width * self.arch.width_ratio) ** -0.5
        if self.is_causal:
            is_visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))
            scores = jnp.where(is_visible[None, None], scores, -jnp.inf)
        if ctx.padding_mask is not None:
            is_token = ctx.padding_mask[:, None, None, :]
            scores = jnp.where(is_token, scores, -jnp.inf)
        return scores

    def _split_heads(self, x: Array) -> Float[Array, "B T H K"]:
        leading_axes = x.shape[:-1]
        return x.reshape(*leading_axes, self.heads, -1)


def rotate(x: Float[Array, "B T H K"]) -> Float[Array, "B T H K"]:
    """Rotary positions: rotates pairs of units by angles that are proportional to the position.

    The pair (i, i+K/2) of position t is rotated by t·10000^(-2i/K) (Su et al. 2021, eq. 34).
    """
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** (-np.arange(half) / half)
    positions = np.arange(x.shape[1])
    angles = np.outer(positions, frequencies)[None, :, None]  # one for all examples and heads
    cos = jnp.asarray(np.cos(angles), x.dtype)
    sin = jnp.asarray(np.sin(angles), x.dtype)
    first = x[..., :half]
    second = x[..., half:]
    rotated_first = first * cos - second * sin
    rotated_second = second * cos + first * sin
    return jnp.concatenate([rotated_first, rotated_second], axis=-1)
