"""What is measured of a network before training: its first update, and the loss around it.

Nothing of it is kept: the state of the run does not change.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from research.gauges.curvature import sharpness
from research.gauges.norms import accumulator
from research.models.hparams import HParams
from research.training.exponents import Counts, count_exponents
from research.training.inspections import Snapshot, wide_snapshot
from research.training.objective import Batch, Data, augment_and_shard, make_objective, next_batch
from research.training.program import Metrics, run_step
from research.training.program_config import ProgramConfig
from research.training.state import TrainState

LANCZOS_ITERATIONS = 8
LANCZOS = 3  # which random key is for the start vector


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Start:
    """What two batches say of a network before training.

    Attributes:
        row: the first update, on the first batch, with all gauges; as ``run_step`` returns it.
        losses: the loss of the second batch before the update and after it, in float32, [2].
        decrease: by how much the update lowers the loss of the second batch to first order.
        common_decrease: the same where each example of that batch has the label of another: the
            part of the update's effect that is the same for all examples.
        sharpness: the greatest eigenvalue of the Hessian of the first batch's loss, in float32.
        counts: exponents of the gradients of the first batch in float32; see ``count_exponents``.
    """

    row: Metrics
    losses: Array
    decrease: Array
    common_decrease: Array
    sharpness: Array
    counts: Counts


def measure_start(
    spec: ProgramConfig,
    state: TrainState,
    hp: HParams,
    data: Data,
) -> Start:
    """Measures a network before its first step.

    Args:
        spec: the program, with ``measure=full``.
        state: the initial state.
        hp: the hyperparameters.
        data: the training examples; streamed data hold the batches of the first steps.
    """
    batch = next_batch(spec, state, data)
    after, row = run_step(spec, True, state, hp, batch)
    update = jax.tree.map(jnp.subtract, _widen(state.params), _widen(after.params))
    wide = wide_snapshot(spec, state, hp, data)
    before = wide.state.params
    # The second step draws other masks and noise than the first one.
    following = dataclasses.replace(wide.state, step=wide.state.step + 1)
    second = _second_batch(wide.spec, following, data)
    points = [
        (before, second),
        (_widen(after.params), second),
        (before, _exchange_labels(second)),
    ]

    def evaluate(point: tuple[Any, Batch]) -> tuple[Array, Array]:
        params, batch = point
        loss, gradient = _loss_and_gradient(wide.spec, following, hp, batch)(params)
        return loss, _inner_product(update, gradient)

    losses, decreases = lax.map(evaluate, jax.tree.map(_stack, *points))
    return Start(
        row=row,
        losses=losses[:2],
        decrease=decreases[0],
        common_decrease=decreases[2],
        sharpness=_sharpness(wide, data),
        counts=count_exponents(wide.spec, wide.state, hp, data)["run"],
    )


def run_trial(
    spec: ProgramConfig,
    state: TrainState,
    hp: HParams,
    data: Data,
    steps: int,
) -> Array:
    """The loss of the first batch before each of ``steps`` updates on it, and after them.

    Args:
        spec: the program.
        state: the initial state.
        hp: the hyperparameters.
        data: the training examples.
        steps: how many updates.

    Returns:
        The losses [steps + 1].
    """
    batch = next_batch(spec, state, data)

    def train_step(state: TrainState, _: None) -> tuple[TrainState, Array]:
        state, row = run_step(spec, False, state, hp, batch)
        return state, row["train_loss"]

    _, losses = lax.scan(train_step, state, length=steps + 1)
    return losses


def _second_batch(
    spec: ProgramConfig,
    state: TrainState,
    data: Data,
) -> Batch:
    """The batch of the second step, which is that of ``state``."""
    if spec.streamed:
        return augment_and_shard(spec, state, data, data["x"][1], data["y"][1])
    return next_batch(spec, state, data)


def _exchange_labels(batch: Batch) -> Batch:
    """The batch with the label of another example for each."""
    inputs, labels = batch
    return inputs, jnp.roll(labels, labels.shape[0] // 2, axis=0)


def _loss_and_gradient(
    spec: ProgramConfig,
    state: TrainState,
    hp: HParams,
    batch: Batch,
) -> Callable[[Any], tuple[Array, Any]]:
    """The loss of a batch and its gradient in float32 or wider, functions of the parameters."""
    objective = make_objective(spec, state, hp, batch)

    def evaluate(params: Any) -> tuple[Array, Any]:
        gradient, outputs = jax.grad(objective, has_aux=True)(params, {})
        scale = state.loss_scale.value
        unscaled = jax.tree.map(lambda leaf: leaf / scale, _widen(gradient))
        return outputs.loss.astype(scale.dtype), unscaled

    return evaluate


def _sharpness(wide: Snapshot, data: Data) -> Array:
    """The greatest eigenvalue of the Hessian of the first batch's loss."""
    batch = next_batch(wide.spec, wide.state, data)
    evaluate = _loss_and_gradient(wide.spec, wide.state, wide.hp, batch)

    def gradient(params: Any) -> Any:
        return evaluate(params)[1]

    key = wide.key(LANCZOS)
    value, _ = sharpness(gradient, wide.state.params, key, LANCZOS_ITERATIONS)
    return value


def _widen(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(accumulator(leaf.dtype)), tree)


def _inner_product(left: Any, right: Any) -> Array:

    def leaf_product(a: Array, b: Array) -> Array:
        return jnp.sum(a * b)

    products = jax.tree.map(leaf_product, left, right)
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))


def _stack(*leaves: Array) -> Array:
    return jnp.stack(leaves)
