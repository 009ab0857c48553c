"""Several residual streams instead of one: how a layer reads, mixes and writes them."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.config.options import SkipKind, StreamSkip
from research.gauges.norms import accumulator

SINKHORN_ITERATIONS = 20
INITIAL_LOGIT = 4.0  # of the diagonal: each stream initially keeps 95 % of itself where there are 4


class StreamMixing(nnx.Module):
    """The three maps of a layer between n streams H [n, D] and its branch F.

    The branch reads z = Σ a_i·H_i, and the streams become M·H + b ⊗ F(z).

    - ``hyper``: a, M and b are learned. Initially a reads stream l mod n in layer l, M = I and
      b = 1, which is h + F(h) in every stream (Zhu et al. 2024, §2.2, the static form).
    - ``mhc``: M = Sinkhorn(exp(A)) is doubly stochastic, a = σ(A_a) and b = 2σ(A_b) are positive.
      Initially a reads the mean of the streams, M is near I, and b = 1 (Xie et al. 2025, eq. 8,
      with learned numbers in place of functions of the input).

    ``skip.mixing_noise`` is the standard deviation of Gaussian noise on the initial M, with ``mhc``
    on A.
    """

    def __init__(
        self,
        skip: StreamSkip,
        layer: Array,
        *,
        param_dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.is_constrained = skip.kind is SkipKind.mhc
        count = skip.streams
        identity = jnp.eye(count)
        noise = skip.mixing_noise * jax.random.normal(rngs.params(), (count, count))
        if self.is_constrained:
            mixing = INITIAL_LOGIT * identity + noise
            reading = jnp.full(count, logit(1 / count))
            writing = jnp.zeros(count)
        else:
            mixing = identity + noise
            reading = jax.nn.one_hot(layer % count, count)
            writing = jnp.ones(count)
        self.mixing = nnx.Param(mixing.astype(param_dtype))
        self.reading = nnx.Param(reading.astype(param_dtype))
        self.writing = nnx.Param(writing.astype(param_dtype))

    def read(self, h: Float[Array, "..."]) -> Float[Array, "..."]:
        """What the branch reads of the streams, side by side on the last axis of ``h``."""
        weights = self.reading[...]
        if self.is_constrained:
            weights = jax.nn.sigmoid(weights)
        streams = split_streams(h, len(weights))
        return jnp.einsum("...nd,n->...d", streams, weights.astype(h.dtype))

    def mix(self, h: Float[Array, "..."], branch: Float[Array, "..."]) -> Float[Array, "..."]:
        """The streams after the layer.

        Args:
            h: the streams before it, side by side on the last axis.
            branch: the output of the branch.
        """
        weights = self.writing[...]
        mixing = self.mixing[...]
        if self.is_constrained:
            weights = 2 * jax.nn.sigmoid(weights)
            mixing = sinkhorn(mixing)
        streams = split_streams(h, len(weights))
        mixed = jnp.einsum("mn,...nd->...md", mixing.astype(h.dtype), streams)
        written = jnp.einsum("...d,m->...md", branch, weights.astype(h.dtype))
        return (mixed + written).reshape(h.shape)


def logit(share: float) -> float:
    """The number whose sigmoid is ``share``; large where the share is 1."""
    limited = min(max(share, 1e-6), 1 - 1e-6)
    return math.log(limited / (1 - limited))


def sinkhorn(logits: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The doubly stochastic matrix that is nearest to exp(``logits``) in relative entropy.

    Rows and columns are divided by their sums in turn, 20 times, in float32 or wider. The last
    division makes the sums over rows exact, and the others are as exact as the iteration is.

    References:
        Sinkhorn & Knopp, Concerning nonnegative matrices and doubly stochastic matrices, 1967. Xie
        et al., mHC: manifold-constrained hyper-connections, 2025, eq. 9.
    """

    def divide(logs: Array, _: Array) -> tuple[Array, None]:
        logs = logs - jax.nn.logsumexp(logs, axis=1, keepdims=True)
        logs = logs - jax.nn.logsumexp(logs, axis=0, keepdims=True)
        return logs, None

    wide = logits.astype(accumulator(logits.dtype))
    logs, _ = jax.lax.scan(divide, wide, jnp.arange(SINKHORN_ITERATIONS))
    return jnp.exp(logs)


def split_streams(h: Float[Array, "..."], count: int) -> Float[Array, "..."]:
    """The streams [..., n, D] that lie side by side on the last axis of ``h`` [..., n·D]."""
    return h.reshape(*h.shape[:-1], count, -1)


def copy_to_streams(h: Float[Array, "..."], count: int) -> Float[Array, "..."]:
    """Every stream as a copy of ``h``: [..., n·D]."""
    return jnp.concatenate([h] * count, axis=-1)


def mean_of_streams(h: Float[Array, "..."], count: int) -> Float[Array, "..."]:
    """The mean of the streams, [..., D]."""
    return jnp.mean(split_streams(h, count), axis=-2)
