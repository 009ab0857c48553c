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
        draws = jax.random.normal(rngs.params(), (count, count))
        noise = skip.mixing_noise * draws
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
        """What the branch reads [..., D] of the streams ``h`` [..., n·D]."""
        weights = self.reading[...]
        if self.is_constrained:
            weights = jax.nn.sigmoid(weights)
        weights = weights.astype(h.dtype)
        streams = split_streams(h, len(weights))
        return jnp.einsum("...nd,n->...d", streams, weights)

    def mix(self, h: Float[Array, "..."], branch: Float[Array, "..."]) -> Float[Array, "..."]:
        """The streams after the layer [..., n·D].

        Args:
            h: the streams before it [..., n·D].
            branch: the output of the branch [..., D].
        """
        weights = self.writing[...]
        mixing = self.mixing[...]
        if self.is_constrained:
            weights = 2 * jax.nn.sigmoid(weights)
            mixing = sinkhorn(mixing)
        mixing = mixing.astype(h.dtype)
        weights = weights.astype(h.dtype)
        streams = split_streams(h, len(weights))
        mixed = jnp.einsum("mn,...nd->...md", mixing, streams)
        written = jnp.einsum("...d,m->...md", branch, weights)
        following = mixed + written
        return following.reshape(h.shape)


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
        row_sums = jax.nn.logsumexp(logs, axis=1, keepdims=True)
        logs = logs - row_sums
        column_sums = jax.nn.logsumexp(logs, axis=0, keepdims=True)
        logs = logs - column_sums
        return logs, None

    wide = logits.astype(accumulator(logits.dtype))
    iterations = jnp.arange(SINKHORN_ITERATIONS)
    logs, _ = jax.lax.scan(divide, wide, iterations)
    return jnp.exp(logs)


def split_streams(h: Float[Array, "..."], count: int) -> Float[Array, "..."]:
    """The streams [..., n, D] of ``h`` [..., n·D], which holds one stream after another."""
    leading_axes = h.shape[:-1]
    return h.reshape(*leading_axes, count, -1)


def copy_to_streams(h: Float[Array, "..."], count: int) -> Float[Array, "..."]:
    """Streams [..., n·D] that are all copies of ``h`` [..., D]."""
    copies = [h] * count
    return jnp.concatenate(copies, axis=-1)


def mean_of_streams(h: Float[Array, "..."], count: int) -> Float[Array, "..."]:
    """The mean of the streams, [..., D]."""
    streams = split_streams(h, count)
    return jnp.mean(streams, axis=-2)
