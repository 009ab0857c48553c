"""Multi-head attention, and where positions come from."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from research.gauges.slots import Statistics
from research.models.architecture import Architecture, ForwardContext
from research.models.dense import make_linear
from research.models.feed_forward import dropout


class Attention(nnx.Module):
    """F(z) = W_o · concat_heads softmax(QKᵀ/√K) V with Q, K, V linear in z (Vaswani et al. 2017, eq. 1).

    A language model's positions see none behind them, and none sees padding. There is no nonlinearity of units, so
    ``saturated`` and ``dead`` have no value. Under ``deepnorm`` W_v and W_o begin β times as large.
    """

    def __init__(self, arch: Architecture, hp: Mapping[str, Array], *, rngs: nnx.Rngs):
        self.arch = arch
        self.heads = arch.heads
        self.causal = arch.language
        self.rotary = arch.positions == "rotary"
        late = arch.deepnorm[1] if arch.skip == "deepnorm" else 1.0

        def make(factor):
            return make_linear(arch.width, arch.width, **arch.weights(hp, rngs), factor=factor)

        self.query = make(1.0)
        self.key = make(1.0)
        self.value = make(late)
        self.out = make(late)

    def __call__(
        self, z: Float[Array, "B T D"], ctx: ForwardContext, layer: Array
    ) -> tuple[Float[Array, "B T D"], Statistics]:
        """The branch's output; the softmax is taken in float32 or wider."""
        q, k, v = (self._split(part(z)) for part in (self.query, self.key, self.value))
        if self.rotary:
            q = rotate(q)
            k = rotate(k)
        wide = jnp.promote_types(z.dtype, jnp.float32)
        scores = (
            jnp.einsum("bthk,bshk->bhts", q, k, preferred_element_type=wide) * q.shape[-1] ** -0.5
        )
        if self.causal:
            seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None]
            scores = jnp.where(seen, scores, -jnp.inf)
        if ctx.padding_mask is not None:
            scores = jnp.where(ctx.padding_mask[:, None, None, :], scores, -jnp.inf)
        weights = jax.nn.softmax(scores).astype(z.dtype)
        mixed = dropout(
            self.arch, jnp.einsum("bhts,bshk->bthk", weights, v).reshape(z.shape), ctx, layer
        )
        nothing = {name: jnp.full((), jnp.nan, jnp.float32) for name in ("saturated", "dead")}
        return self.out(mixed), nothing if ctx.collect_unit_stats else {}

    def _split(self, x: Array) -> Float[Array, "B T H K"]:
        return x.reshape(*x.shape[:-1], self.heads, -1)


def rotate(x: Float[Array, "B T H K"]) -> Float[Array, "B T H K"]:
    """Turns the pair (i, i+K/2) of position t by the angle t·10000^(-2i/K) (Su et al. 2021, eq. 34)."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * 10000.0 ** (-np.arange(half) / half)
    cos, sin = (jnp.asarray(f(angles), x.dtype)[None, :, None] for f in (np.cos, np.sin))
    first = x[..., :half]
    second = x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
