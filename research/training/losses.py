"""Losses by name, in float32 or wider, and the accuracy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from research.gauges.norms import accumulator


def loss_and_accuracy(
    kind: str,
    logits: Float[Array, "B ... C"],
    labels: Num[Array, "B ..."],
    smoothing: Float[Array, ""],
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """The loss of each example, and whether the greatest output names its label; means over T where there is one.

    ``cross_entropy``, in nats, against targets (1-s)·onehot + s/C (Szegedy et al. 2016, eq. 3).
    ``mse``: half the squared distance to those targets, summed over C (Cohen et al. 2021, appendix). Where ``labels``
    are numbers to be met [B, C], they are the targets themselves, and accuracy means nothing: NaN.
    """
    logits = logits.astype(accumulator(logits.dtype))
    if jnp.issubdtype(labels.dtype, jnp.floating):
        losses = 0.5 * jnp.sum((logits - labels.astype(logits.dtype)) ** 2, axis=-1)
        return losses, jnp.full_like(losses, jnp.nan)
    classes = logits.shape[-1]
    targets = (1 - smoothing) * jax.nn.one_hot(
        labels, classes, dtype=logits.dtype
    ) + smoothing / classes
    if kind == "cross_entropy":
        losses = -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
    else:
        losses = 0.5 * jnp.sum((logits - targets) ** 2, axis=-1)
    correct = jnp.argmax(logits, axis=-1) == labels
    positions = tuple(range(1, labels.ndim))
    return jnp.mean(losses, positions), jnp.mean(correct, positions, dtype=logits.dtype)
