"""The state of a run: everything that a step changes."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossScale:
    """The present factor on the loss, and how many steps in a row had a finite gradient; below 0, how many had not."""

    value: Array
    finite_streak: Array  # int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """One run's state; under the program every leaf has a leading runs axis M."""

    step: Array  # int32: updates done
    params: Any
    model_state: Any  # running statistics of the network
    opt_state: Any
    key: Array  # the run's typed random key, from its seed
    loss_scale: LossScale
