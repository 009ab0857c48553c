"""Losses by name, in float32 or wider, and the accuracy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from research.gauges.norms import accumulator


def loss_and_accuracy(
    kind: str, logits: Float[Array, "B C"], labels: Int[Array, " B"], smoothing: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean loss over B, and the fraction of labels that the greatest output names.

    ``cross_entropy``, in nats, against targets (1-s)·onehot + s/C (Szegedy et al. 2016, eq. 3).
    ``mse``: half the squared distance to those targets, summed over C (Cohen et al. 2021, appendix).
    """
    logits = logits.astype(accumulator(logits.dtype))
    classes = logits.shape[-1]
    targets = (1 - smoothing) * jax.nn.one_hot(labels, classes, dtype=logits.dtype) + smoothing / classes
    if kind == "cross_entropy":
        losses = -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
    else:
        losses = 0.5 * jnp.sum((logits - targets) ** 2, axis=-1)
    correct = jnp.argmax(logits, axis=-1) == labels
    return jnp.mean(losses), jnp.mean(correct, dtype=logits.dtype)
