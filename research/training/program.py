"""The program: a run as a pure function of its numbers.

``make_program`` compiles what decides shapes and operations; every other number is an argument, so runs that
differ in those alone share it. All functions carry a leading axis M of runs; a run is a batch of one.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array

from research.gauges.layers import layer_norms, update_gauges
from research.gauges.norms import accumulator, euclidean, tree_euclidean
from research.models.architecture import Architecture, ForwardContext
from research.parallel.collectives import batch_axis_size, psum_tree, shard_batch
from research.parallel.mesh import (
    SINGLE_DEVICE,
    Layout,
    init_layout,
    map_runs,
    replicated,
)
from research.training.exponents import count_exponents
from research.training.inspections import inspect
from research.training.layer_params import stages_of
from research.training.losses import loss_and_accuracy
from research.training.objective import (
    HP,
    augment_and_shard,
    batch_indices,
    epoch_permutation,
    graph_of,
    make_model,
    make_objective,
    normalize_inputs,
    step_key,
)
from research.training.optimizers import clip, learning_rate, make_optimizer
from research.training.program_config import ProgramConfig
from research.training.reduction import all_reduce_step
from research.training.rounding import cast_params
from research.training.scaling import can_go_on, first_scale, is_finite, next_scale
from research.training.state import TrainState

# XLA's CPU backend hands smaller convolutions to a library that uses one core: without it they use all.
ALL_CORES_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
# Of what runs once: a fifth of the time to compile, and two to three times that to run.
FAST_COMPILE_OPTIONS = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
Metrics = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled functions of a family of runs.

    ``init(hp)`` → state. ``chunk(state, hp, data, start, steps)`` → state and metrics with a steps axis after M, of
    which the first ``steps`` rows count. ``evaluate(state, hp, data)`` → the held-out split's loss and accuracy.
    ``exponents(state, hp, data)`` → see ``count_exponents``; ``inspections`` → see ``inspect``.
    """

    init: jax.stages.Wrapped
    chunk: jax.stages.Wrapped
    evaluate: jax.stages.Wrapped
    exponents: jax.stages.Wrapped
    inspections: jax.stages.Wrapped


@functools.lru_cache(maxsize=256)
def make_program(spec: ProgramConfig, layout: Layout = SINGLE_DEVICE) -> Program:
    """The program of ``spec``; asked again, the same one, so that nothing is traced twice."""

    def mapped(
        function: Callable, num_mapped: int, num_broadcast: int = 0, at: Layout = layout
    ) -> Callable:
        return map_runs(
            at,
            functools.partial(function, spec),
            num_mapped=num_mapped,
            num_broadcast=num_broadcast,
        )

    once = _on_cpu(FAST_COMPILE_OPTIONS)
    beside = once if spec.fast_compile else None
    step = (_on_cpu(ALL_CORES_OPTIONS) if spec.architecture.convolves else {}) | (
        once if spec.fast_compile else {}
    )
    return Program(
        init=jax.jit(mapped(_init, 1, at=init_layout(layout)), compiler_options=once),
        chunk=jax.jit(mapped(_chunk, 2, 3), donate_argnums=0, compiler_options=step),
        evaluate=jax.jit(mapped(_evaluate, 2, 1), compiler_options=beside),
        exponents=jax.jit(mapped(count_exponents, 2, 1), compiler_options=beside),
        inspections=jax.jit(mapped(inspect, 2, 1, at=replicated(layout)), compiler_options=beside),
    )


def _on_cpu(options: dict[str, Any]) -> dict[str, Any]:
    """Options of the CPU's compiler, where it is the one and its version is known to have them."""
    return options if jax.default_backend() == "cpu" and jax.__version_info__ < (0, 11) else {}


def _init(spec: ProgramConfig, hp: HP) -> TrainState:
    key = jax.random.key(hp["seed"])
    _, params, rest = nnx.split(
        make_model(spec.architecture, hp, jax.random.fold_in(key, 0)), nnx.Param, ...
    )
    optimizer = make_optimizer(spec.optimizer, hp)
    opt_state = optimizer.init(_widened(params))
    running = jax.tree.map(
        lambda leaf: leaf.astype(accumulator(jnp.dtype(spec.architecture.dtype))), rest
    )
    return TrainState(
        jnp.int32(0), params, running, opt_state, key, first_scale(spec.loss_scaling, hp)
    )


def _widened(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(accumulator(leaf.dtype)), tree)


def _chunk(
    spec: ProgramConfig,
    state: TrainState,
    hp: HP,
    data: Mapping[str, Array],
    start: Array,
    steps: Array,
) -> tuple[TrainState, Metrics]:
    """Trains ``steps`` ≤ ``spec.capacity`` steps from step ``start``, the batches gathered on the device.

    Where they are streamed, ``x`` and ``y`` hold the batches of these steps instead: [capacity, B, …].
    """
    examples = data["x"].shape[0]
    per_epoch = max(1, examples // spec.batch_size)  # of streamed batches it is not asked
    measured = spec.level != "off"

    def train(i: Array, carry: tuple) -> tuple:
        state, places, rows = carry
        step = start + i
        if spec.full_batch:
            batch = data["x"], data["y"]
        elif spec.streamed:
            batch = data["x"][i], data["y"][i]
        else:
            position = step % per_epoch
            epoch = step // per_epoch
            begins = (position == 0) | (i == 0)
            places = lax.cond(
                begins, lambda: epoch_permutation(state.key, epoch, examples), lambda: places
            )
            chosen = batch_indices(spec, places, position)
            batch = data["x"][chosen], data["y"][chosen]
        batch = augment_and_shard(spec, state, data, *batch)
        state, row = _measured_at_interval(spec, measured, step, state, hp, batch)
        put = functools.partial(lax.dynamic_update_index_in_dim, index=i, axis=0)
        return state, places, jax.tree.map(lambda column, value: put(column, value), rows, row)

    shuffled = not (spec.full_batch or spec.streamed)
    places = jnp.zeros(examples if shuffled else 0, jnp.int32)
    some = 0 if spec.streamed else slice(spec.batch_size)
    first = data["x"][some], data["y"][some]

    def batch_of_one(x, y):
        return _step(spec, measured, state, hp, augment_and_shard(spec, state, data, x, y))

    shapes = jax.eval_shape(batch_of_one, *first)[1]
    rows = jax.tree.map(lambda row: jnp.zeros((spec.capacity, *row.shape), row.dtype), shapes)
    state, _, rows = lax.fori_loop(0, steps, train, (state, places, rows))
    return state, rows


def _measured_at_interval(
    spec: ProgramConfig, measured: bool, step: Array, state: TrainState, hp: HP, batch: tuple
) -> tuple[TrainState, Metrics]:
    if not measured or spec.every == 1:
        return _step(spec, measured, state, hp, batch)
    shapes = jax.eval_shape(functools.partial(_step, spec, True), state, hp, batch)[1]

    def bare(state: TrainState) -> tuple[TrainState, Metrics]:
        state, row = _step(spec, False, state, hp, batch)
        return state, jax.tree.map(
            lambda shape: jnp.full(shape.shape, jnp.nan, shape.dtype), shapes
        ) | row

    return lax.cond(
        step % spec.every == 0, lambda state: _step(spec, True, state, hp, batch), bare, state
    )


@functools.partial(
    jax.jit, static_argnums=(0, 1), inline=True
)  # asked for its shapes, then for itself: traced once
def _step(
    spec: ProgramConfig, measured: bool, state: TrainState, hp: HP, batch: tuple[Array, Array]
) -> tuple[TrainState, Metrics]:
    """One update; the row holds numbers of the step and, where ``measured``, a profile over layers."""
    arch = spec.architecture
    wide = accumulator(jnp.dtype(spec.architecture.dtype))
    full = measured and spec.level == "full"
    slots = {name: jnp.zeros(length, wide) for name, length in _slots(arch, measured, full).items()}
    objective = make_objective(spec, state, hp, batch, forward=measured, units=full)
    (grads, backward), (loss, accuracy, forward, rest) = jax.grad(objective, (0, 1), has_aux=True)(
        state.params, slots
    )
    grads, (loss, accuracy), profile = all_reduce_step(grads, (loss, accuracy), forward | backward)
    scaled = grads, {name: profile[name] for name in backward}
    grads, backward = jax.tree.map(lambda leaf: leaf.astype(wide) / state.loss_scale.value, scaled)
    row: Metrics = {
        "train_loss": loss,
        "train_accuracy": accuracy,
        "loss_scale": state.loss_scale.value,
    }
    row["learning_rate"] = learning_rate(spec.schedule, state.step, hp)
    if measured:
        row["profile"], row["grad_norm"] = _gradient_gauges(arch, profile | backward, grads)
    finite = jnp.isfinite(loss) & (jnp.isfinite(row["grad_norm"]) if measured else is_finite(grads))
    row |= {
        "skipped": ~finite,
        "finite": can_go_on(spec.loss_scaling, state.loss_scale, loss, finite),
    }

    def updated() -> tuple:
        running = jax.tree.map(lambda new, old: new.astype(old.dtype), rest, state.model_state)
        return *_update(spec, state, hp, grads, row["learning_rate"]), running

    kept = state.params, state.opt_state, state.model_state
    params, opt_state, rest = lax.cond(
        finite, updated, lambda: kept
    )  # a selection would read and write all of them
    if full:
        updates = update_gauges(stages_of(arch, state.params), stages_of(arch, params))
        row["profile"] |= {
            name: jnp.broadcast_to(values, arch.layers) for name, values in updates.items()
        }
    scale = next_scale(spec.loss_scaling, state.loss_scale, finite, hp)
    return TrainState(state.step + 1, params, rest, opt_state, state.key, scale), row


def _slots(arch: Architecture, measured: bool, full: bool) -> dict[str, int]:
    """The lengths of the slots that are measured with."""
    n = arch.layers
    lengths = {"signal_grad": n + 1} | ({"grad_norm": n} if arch.shared else {}) if measured else {}
    return lengths | ({"branch_grad": n, "skip_grad": n} if full else {})


def _gradient_gauges(arch: Architecture, profile: Metrics, grads: Any) -> tuple[Metrics, Array]:
    """The profile with the norm of each layer's gradient, and the norm of the whole gradient.

    Layers that share their weights have measured their parts of the gradient by themselves.
    """
    if arch.shared:
        return profile, tree_euclidean(grads)
    layers = layer_norms(stages_of(arch, grads))
    outer = jnp.stack([tree_euclidean(grads[part]) for part in grads if part != "stages"])
    return profile | {"grad_norm": layers}, euclidean(jnp.concatenate([outer, layers]))


def _update(
    spec: ProgramConfig, state: TrainState, hp: HP, grads: Any, rate: Array
) -> tuple[Any, Any]:
    """The parameters after the step, computed in float32 or wider and rounded to the weights' format once."""
    params = _widened(state.params)
    optimizer = make_optimizer(spec.optimizer, hp)
    clipped = clip(spec.clip, grads, params, hp["optimizer.clip_threshold"])
    direction, opt_state = optimizer.update(clipped, state.opt_state, params)
    new = jax.tree.map(lambda old, change: old - rate * change, params, direction)
    key = jax.random.fold_in(step_key(state), 2**32 - 2) if spec.stochastic_rounding else None
    return cast_params(new, state.params, key), opt_state


def _evaluate(spec: ProgramConfig, state: TrainState, hp: HP, data: Mapping[str, Array]) -> Metrics:
    """Loss and accuracy of the held-out split, batch by batch."""
    graph = graph_of(spec.architecture, hp)
    examples = data["eval_x"].shape[0]
    size = -(-min(spec.batch_size, examples) // batch_axis_size()) * batch_axis_size()

    def sums(rows: Array) -> Array:
        model = nnx.merge(graph, state.params, state.model_state, copy=True)
        rows = shard_batch(rows)
        real = rows < examples
        rows = jnp.minimum(rows, examples - 1)
        logits, _ = model(
            normalize_inputs(spec.architecture, data, data["eval_x"][rows]),
            {},
            ForwardContext(hp, train=False),
        )
        each = loss_and_accuracy(
            spec.loss, logits, data["eval_y"][rows], jnp.zeros((), accumulator(logits.dtype))
        )
        return jnp.stack([jnp.sum(jnp.where(real, values, 0)) for values in each])

    batches = jnp.arange(-(-examples // size) * size).reshape(-1, size)
    loss, accuracy = psum_tree(jnp.sum(lax.map(sums, batches), axis=0)) / examples
    return {"eval_loss": loss, "eval_accuracy": accuracy}
