"""From a batch to the scaled loss, as a function of parameters and slots: what every gradient is taken of."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from research.data.augment import augment_images
from research.models.architecture import Architecture, ForwardContext
from research.models.stack import Stack
from research.parallel.collectives import local_loss_share, sample_then_shard, shard_batch
from research.training.losses import loss_and_accuracy
from research.training.permutation import permutation
from research.training.program_config import ProgramConfig
from research.training.state import TrainState

HP = Mapping[str, Array]
Batch = tuple[Array, Array]


def make_model(arch: Architecture, hp: HP, key: Array) -> Stack:
    """The network with its initial weights."""
    return Stack(arch, hp, rngs=nnx.Rngs(key))


def graph_of(arch: Architecture, hp: HP) -> nnx.GraphDef:
    """The network without its weights."""
    return nnx.graphdef(nnx.eval_shape(lambda: make_model(arch, hp, jax.random.key(0))))


def epoch_permutation(key: Array, epoch: Array | int, examples: int) -> Array:
    """The order of the examples [n]: a pure function of (seed, epoch), ``key`` being the seed's."""
    return permutation(jax.random.fold_in(jax.random.fold_in(key, 1), epoch), examples)


def batch_indices(spec: ProgramConfig, order: Array, position: Array) -> Array:
    """Which examples are in the batch at ``position`` of an epoch in this ``order``."""
    return jax.lax.dynamic_slice_in_dim(order, position * spec.batch_size, spec.batch_size)


def normalize_inputs(arch: Architecture, data: Mapping[str, Array], rows: Array) -> Array:
    """What the network reads: numbers brought to scale, or tokens as they are."""
    if arch.vocabulary:
        return rows.astype(jnp.int32)
    return ((rows.astype(data["scale"].dtype) - data["offset"]) * data["scale"]).astype(arch.dtype)


def augment_and_shard(
    spec: ProgramConfig, state: TrainState, data: Mapping[str, Array], rows: Array, labels: Array
) -> Batch:
    """The batch as the present step sees it: images augmented, and of it this device's part."""
    arch = spec.architecture
    inputs = normalize_inputs(spec.architecture, data, rows)
    return shard_batch(
        (augment_images(inputs, arch.shape, spec.crop, spec.flip, state.key, state.step), labels)
    )


def next_batch(spec: ProgramConfig, state: TrainState, data: Mapping[str, Array]) -> Batch:
    """The batch of the step that comes next; where data are streamed, they are those of the steps from there on."""
    if spec.full_batch:
        return augment_and_shard(spec, state, data, data["x"], data["y"])
    if spec.streamed:
        return augment_and_shard(spec, state, data, data["x"][0], data["y"][0])
    examples = data["x"].shape[0]
    epoch, position = jnp.divmod(state.step, examples // spec.batch_size)
    rows = batch_indices(spec, epoch_permutation(state.key, epoch, examples), position)
    return augment_and_shard(spec, state, data, data["x"][rows], data["y"][rows])


def step_key(state: TrainState) -> Array:
    """The random key of the present step."""
    return jax.random.fold_in(jax.random.fold_in(state.key, 2), state.step)


def make_objective(
    spec: ProgramConfig,
    state: TrainState,
    hp: HP,
    batch: Batch,
    *,
    forward: bool = False,
    units: bool = False,
) -> Callable[[Any, dict[str, Array]], tuple[Array, tuple]]:
    """(parameters, slots) → the loss times the loss scale, and (loss, accuracy, forward statistics, running ones).

    Where devices share the batch, all but the running statistics are of this device's examples, and the first is its
    part of the mean over the batch.

    ``forward`` and ``units`` say which statistics of the forward pass are taken.
    """
    arch = spec.architecture
    key = step_key(state)
    ctx = ForwardContext(
        hp,
        train=True,
        collect_activations=forward,
        collect_unit_stats=units,
        key=key if arch.random else None,
    )
    inputs = (
        _with_noise(batch[0], jax.random.fold_in(key, 2**32 - 1), hp) if spec.noisy else batch[0]
    )
    graph = graph_of(arch, hp)

    def objective(params: Any, slots: dict[str, Array]) -> tuple[Array, tuple]:
        model = nnx.merge(graph, params, state.model_state, copy=True)
        logits, statistics = model(inputs, slots, ctx)
        losses, hits = loss_and_accuracy(spec.loss, logits, batch[1], hp["loss.label_smoothing"])
        loss = jnp.mean(losses)
        accuracy = jnp.mean(hits)
        return local_loss_share(loss) * state.loss_scale.value, (
            loss,
            accuracy,
            statistics,
            nnx.state(model, nnx.Not(nnx.Param)),
        )

    return objective


def _with_noise(x: Array, key: Array, hp: HP) -> Array:
    return x + (
        hp["train.input_noise"] * sample_then_shard(partial(jax.random.normal, key), x.shape)
    ).astype(x.dtype)
