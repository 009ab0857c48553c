"""The state of a run: everything that a step changes."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossScale:
    """The present factor on the loss.

    Attributes:
        value: the factor.
        finite_streak: positive: consecutive steps with a finite gradient; negative: consecutive
            skipped steps; int32.
    """

    value: Array
    finite_streak: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """One run's state; outside the program every leaf has a leading runs axis M.

    Attributes:
        step: updates so far, int32.
        params: the network's parameters.
        model_state: the network's running statistics.
        opt_state: the optimizer's state.
        key: the run's typed random key, from its seed.
        loss_scale: the factor on the loss.
    """

    step: Array
    params: Any
    model_state: Any
    opt_state: Any
    key: Array
    loss_scale: LossScale


def without_loss_scale(state: TrainState) -> TrainState:
    """The state with a loss scale of 1."""
    one = jnp.ones_like(state.loss_scale.value)
    unscaled = LossScale(one, state.loss_scale.finite_streak)
    return dataclasses.replace(state, loss_scale=unscaled)
