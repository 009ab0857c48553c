"""Loss scaling: the factor on the loss that lifts small gradients into the number format's range.

References:
    Micikevicius et al., Mixed precision training, 2018, §3.2.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from research.config.options import LossScaling, Precision
from research.training.state import LossScale

# Under a static scale, a run has diverged after so many skipped steps in a row.
MAX_SKIPPED_STEPS = 50
# A gradient that overflows even at this scale has diverged: 65504 · 2^14 is 1e9.
MIN_LOSS_SCALE = 2.0**-14


def first_scale(precision: Precision) -> LossScale:
    """The initial loss scale: ``precision.loss_scale``, or 1 without loss scaling."""
    scale = jnp.asarray(precision.loss_scale)
    if precision.loss_scaling is LossScaling.none:
        scale = jnp.ones_like(scale)
    return LossScale(scale, jnp.int32(0))


def next_scale(
    precision: Precision,
    scale: LossScale,
    finite: Bool[Array, ""],
) -> LossScale:
    """The loss scale of the next step.

    Dynamic scaling multiplies it by ``backoff_factor`` after a gradient that is not finite, down to
    ``MIN_LOSS_SCALE``, and by ``growth_factor`` after ``growth_interval`` finite ones in a row.

    Args:
        precision: the option, with arrays for its traced numbers.
        scale: the loss scale of this step.
        finite: whether this step's gradient is finite.
    """
    finite_streak = jnp.maximum(scale.finite_streak, 0) + 1
    skipped_streak = jnp.minimum(scale.finite_streak, 0) - 1
    streak = jnp.where(finite, finite_streak, skipped_streak)
    if precision.loss_scaling is not LossScaling.dynamic:
        return LossScale(scale.value, streak)
    grows = streak >= precision.growth_interval
    grown = scale.value * precision.growth_factor
    higher = jnp.where(grows & jnp.isfinite(grown), grown, scale.value)
    lower = jnp.maximum(scale.value * precision.backoff_factor, MIN_LOSS_SCALE)
    value = jnp.where(finite, higher, lower)
    return LossScale(value, jnp.where(grows, 0, streak))


def has_not_diverged(
    precision: Precision,
    scale: LossScale,
    loss: Array,
    finite: Bool[Array, ""],
) -> Bool[Array, ""]:
    """Whether the run may continue.

    It may if the loss is finite, and the gradient is finite or loss scaling may still make it
    finite.

    Args:
        precision: the option.
        scale: the loss scale of this step.
        loss: this step's mean loss [].
        finite: whether this step's gradient is finite.
    """
    match precision.loss_scaling:
        case LossScaling.static:
            may_recover = scale.finite_streak > 1 - MAX_SKIPPED_STEPS
        case LossScaling.dynamic:
            may_recover = scale.value > MIN_LOSS_SCALE
        case _:
            may_recover = jnp.array(False)
    return jnp.isfinite(loss) & (finite | may_recover)


def is_finite(tree: Any) -> Bool[Array, ""]:
    """Whether every element is finite: a maximum is the cheapest reduction that keeps infinity and
    NaN.
    """
    peaks = []
    for leaf in jax.tree.leaves(tree):
        peaks.append(jnp.max(jnp.abs(leaf), initial=0))
    return jnp.all(jnp.isfinite(jnp.stack(peaks)))
