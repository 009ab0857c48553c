"""Losses by name, in float32 or wider, and the accuracy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from research.config.options import Loss, LossKind
from research.gauges.norms import accumulator


def loss_and_accuracy(
    loss: Loss,
    logits: Float[Array, "B ... C"],
    labels: Num[Array, "B ..."],
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """The loss of each example and its accuracy, both as means over the positions T.

    The accuracy is 1 where the greatest output is that of the label, and 0 elsewhere.

    - ``cross_entropy``, in nats, against the targets (1-s)·onehot + s/C with the label smoothing s
      (Szegedy et al. 2016, eq. 3).
    - ``mse``: half the squared distance to those targets, summed over C (Cohen et al. 2021,
      appendix).

    Args:
        loss: the option, with an array for the label smoothing.
        logits: the network's outputs.
        labels: class labels; or real numbers [B, C], which are the targets of a regression, where
            the accuracy is NaN.

    Returns:
        The losses [B], in float32 or wider, and the accuracies [B].
    """
    logits = logits.astype(accumulator(logits.dtype))
    is_regression = jnp.issubdtype(labels.dtype, jnp.floating)
    if is_regression:
        targets = labels.astype(logits.dtype)
        distances = logits - targets
        losses = 0.5 * jnp.sum(distances**2, axis=-1)
        return losses, jnp.full_like(losses, jnp.nan)
    classes = logits.shape[-1]
    smoothing = loss.label_smoothing
    one_hot = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    targets = (1 - smoothing) * one_hot + smoothing / classes
    if loss.kind is LossKind.cross_entropy:
        log_probabilities = jax.nn.log_softmax(logits)
        losses = -jnp.sum(targets * log_probabilities, axis=-1)
    else:
        distances = logits - targets
        losses = 0.5 * jnp.sum(distances**2, axis=-1)
    predicted = jnp.argmax(logits, axis=-1)
    correct = predicted == labels
    num_axes = labels.ndim
    positions = tuple(range(1, num_axes))
    mean_losses = jnp.mean(losses, positions)
    accuracies = jnp.mean(correct, positions, dtype=logits.dtype)
    return mean_losses, accuracies
