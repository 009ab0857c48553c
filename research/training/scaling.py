"""Loss scaling: the factor on the loss that lifts small gradients into the number format's range.

References:
    Micikevicius et al., Mixed precision training, 2018, §3.2.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from research.training.state import LossScale

MAX_SKIPPED_STEPS = 50  # so many steps in a row beyond the format's range under a static scale: the run has diverged
MIN_LOSS_SCALE = (
    2.0**-14
)  # a gradient that overflows even at this scale has diverged; 65504 · 2^14 is 1e9


def first_scale(mode: str, hp: Mapping[str, Array]) -> LossScale:
    """``precision.loss_scale``, or 1 without loss scaling."""
    scale = hp["precision.loss_scale"]
    return LossScale(jnp.ones_like(scale) if mode == "none" else scale, jnp.int32(0))


def next_scale(
    mode: str, scale: LossScale, finite: Bool[Array, ""], hp: Mapping[str, Array]
) -> LossScale:
    """The factor of the next step, from whether this step's gradient was ``finite``.

    ``dynamic``: times ``backoff_factor`` behind a gradient that was not, down to ``MIN_LOSS_SCALE``; times ``growth_factor``
    behind ``growth_interval`` finite ones in a row. Otherwise it stays.
    """
    finite_streak = jnp.where(
        finite, jnp.maximum(scale.finite_streak, 0) + 1, jnp.minimum(scale.finite_streak, 0) - 1
    )
    if mode != "dynamic":
        return LossScale(scale.value, finite_streak)
    due = finite_streak >= hp["precision.growth_interval"]
    grown = scale.value * hp["precision.growth_factor"]
    higher = jnp.where(due & jnp.isfinite(grown), grown, scale.value)
    lower = jnp.maximum(scale.value * hp["precision.backoff_factor"], MIN_LOSS_SCALE)
    return LossScale(jnp.where(finite, higher, lower), jnp.where(due, 0, finite_streak))


def can_go_on(mode: str, scale: LossScale, loss: Array, finite: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether the run has not diverged: the loss is a number, and so is the gradient, now or in a step to come."""
    hope = {
        "none": jnp.array(False),
        "static": scale.finite_streak > 1 - MAX_SKIPPED_STEPS,
        "dynamic": scale.value > MIN_LOSS_SCALE,
    }
    return jnp.isfinite(loss) & (finite | hope[mode])


def is_finite(tree: Any) -> Bool[Array, ""]:
    """Whether every element is a number: a maximum is the cheapest reduction that keeps both infinite and NaN."""
    peaks = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.isfinite(jnp.stack(peaks)))
