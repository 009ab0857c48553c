"""The scaled training loss as a function of parameters and slots.

All gradients are taken of this function.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from research.config.options import Level
from research.data.augment import augment_images
from research.models.architecture import Architecture, ForwardContext
from research.models.hparams import HParams
from research.models.stack import Stack
from research.parallel.collectives import local_loss_share, sample_then_shard, shard_batch
from research.training.losses import loss_and_accuracy
from research.training.permutation import permutation
from research.training.program_config import ProgramConfig
from research.training.state import TrainState

Data = Mapping[str, Array]
Batch = tuple[Array, Array]
NOISE = 2**32 - 1  # which random key of a step is for the noise on inputs


def make_model(
    arch: Architecture,
    hp: HParams,
    key: Array,
) -> Stack:
    """The network with its initial weights.

    Args:
        arch: the network's architecture.
        hp: the hyperparameters.
        key: decides the initial weights.
    """
    return Stack(arch, hp, rngs=nnx.Rngs(key))


def graph_of(arch: Architecture, hp: HParams) -> nnx.GraphDef:
    """The network without its weights."""
    model = nnx.eval_shape(lambda: make_model(arch, hp, jax.random.key(0)))
    return nnx.graphdef(model)


def epoch_permutation(
    key: Array,
    epoch: Array | int,
    examples: int,
) -> Array:
    """The order of the examples [n] in an epoch.

    Args:
        key: the run's random key.
        epoch: the number of the epoch, from 0.
        examples: the number of examples n.
    """
    epoch_key = jax.random.fold_in(jax.random.fold_in(key, 1), epoch)
    return permutation(epoch_key, examples)


def batch_indices(
    spec: ProgramConfig,
    order: Array,
    position: Array,
) -> Array:
    """The indices [B] of the examples in a batch.

    Args:
        spec: the program, for the batch size.
        order: the order of the examples in the epoch.
        position: the index of the batch in the epoch.
    """
    start = position * spec.batch_size
    return jax.lax.dynamic_slice_in_dim(order, start, spec.batch_size)


def steps_per_epoch(spec: ProgramConfig, data: Data) -> int:
    """Batches in an epoch; of streamed data it has no meaning."""
    return max(1, data["x"].shape[0] // spec.batch_size)


def select_batch(
    spec: ProgramConfig,
    data: Data,
    step: Array,
    chunk_index: Array | int,
    order: Array,
) -> Batch:
    """The stored examples [B, …] and labels [B, …] of a step.

    Args:
        spec: how batches are made.
        data: the training examples; of streamed data the batches of a chunk of steps.
        step: the number of the step.
        chunk_index: the index of the step in the chunk, for streamed data.
        order: the numbers of the examples [E] in the order of the step's epoch, for shuffled data.
    """
    if spec.full_batch:
        return data["x"], data["y"]
    if spec.streamed:
        return data["x"][chunk_index], data["y"][chunk_index]
    position = step % steps_per_epoch(spec, data)
    chosen = batch_indices(spec, order, position)
    return data["x"][chosen], data["y"][chosen]


def normalize_inputs(
    arch: Architecture,
    data: Data,
    rows: Array,
) -> Array:
    """What the network reads: standardised numbers, or tokens as they are.

    Args:
        arch: the network's architecture.
        data: offset and scale of the inputs.
        rows: the stored examples [B, …].
    """
    if arch.vocabulary:
        return rows.astype(jnp.int32)
    numbers = rows.astype(data["scale"].dtype)
    return ((numbers - data["offset"]) * data["scale"]).astype(arch.dtype)


def augment_and_shard(
    spec: ProgramConfig,
    state: TrainState,
    data: Data,
    rows: Array,
    labels: Array,
) -> Batch:
    """This device's share of a batch as the present step sees it, with augmented images.

    Args:
        spec: how images are augmented.
        state: the key and the number of the step.
        data: offset and scale of the inputs.
        rows: the stored examples of the whole batch [B, …].
        labels: their targets [B, …].
    """
    arch = spec.architecture
    inputs = normalize_inputs(arch, data, rows)
    inputs = augment_images(inputs, arch.shape, spec.crop, spec.flip, state.key, state.step)
    return shard_batch((inputs, labels))


def next_batch(
    spec: ProgramConfig,
    state: TrainState,
    data: Data,
) -> Batch:
    """This device's share of the next step's batch.

    Args:
        spec: how batches are made.
        state: the state before the step.
        data: the training examples; streamed data hold the batches from that step on.
    """
    order = jnp.zeros(0, jnp.int32)
    if spec.shuffled:
        epoch = state.step // steps_per_epoch(spec, data)
        order = epoch_permutation(state.key, epoch, data["x"].shape[0])
    rows, labels = select_batch(spec, data, state.step, 0, order)
    return augment_and_shard(spec, state, data, rows, labels)


def step_key(state: TrainState) -> Array:
    """The random key of the present step."""
    return jax.random.fold_in(jax.random.fold_in(state.key, 2), state.step)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ForwardOutputs:
    """What a forward pass returns in addition to the scaled loss, for this device's examples.

    Attributes:
        loss: mean loss, unscaled.
        accuracy: mean accuracy.
        statistics: what the forward gauges measured, by name.
        model_state: the network's running statistics.
    """

    loss: Any
    accuracy: Any
    statistics: Any
    model_state: Any


def make_objective(
    spec: ProgramConfig,
    state: TrainState,
    hp: HParams,
    batch: Batch,
    *,
    level: Level = Level.off,
    counts_exponents: bool = False,
) -> Callable[[Any, dict[str, Array]], tuple[Array, ForwardOutputs]]:
    """The function (parameters, slots) → (loss times loss scale, ``ForwardOutputs``).

    Where devices share the batch, the first output is this device's share of the mean over the
    batch.

    Args:
        spec: the network and the loss.
        state: the step's key, loss scale and running statistics.
        hp: the hyperparameters.
        batch: this device's examples and labels.
        level: which forward gauges are measured.
        counts_exponents: whether the exponents of what each layer reads are counted.
    """
    arch = spec.architecture
    key = step_key(state)
    ctx = ForwardContext(
        hp,
        train=True,
        level=level,
        key=key if arch.is_random else None,
        counts_exponents=counts_exponents,
    )
    inputs, labels = batch
    if spec.train.input_noise:
        inputs = _add_noise(inputs, jax.random.fold_in(key, NOISE), hp)
    graph = graph_of(arch, hp)

    def objective(params: Any, slots: dict[str, Array]) -> tuple[Array, ForwardOutputs]:
        model = nnx.merge(graph, params, state.model_state, copy=True)
        logits, statistics = model(inputs, slots, ctx)
        losses, hits = loss_and_accuracy(hp.loss, logits, labels)
        loss = jnp.mean(losses)
        accuracy = jnp.mean(hits)
        model_state = nnx.state(model, nnx.Not(nnx.Param))
        scaled_share = local_loss_share(loss) * state.loss_scale.value
        return scaled_share, ForwardOutputs(loss, accuracy, statistics, model_state)

    return objective


def _add_noise(
    x: Array,
    key: Array,
    hp: HParams,
) -> Array:
    noise = sample_then_shard(partial(jax.random.normal, key), x.shape)
    return x + (hp.train.input_noise * noise).astype(x.dtype)
