"""The program: a run as a pure function of its hyperparameters.

``make_program`` compiles one program for everything that shapes and operations depend on. All other
numbers are arguments, so runs that differ only in them share the program. All functions carry a
leading axis M of runs; a run is a batch of one.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array

from research.config.options import BFloat16, Clip, Level, Precision
from research.gauges.layers import each_layer, layer_norms, weight_and_update_norms
from research.gauges.norms import accumulator, euclidean, tree_euclidean
from research.gauges.table import GRAD_NORM, Site, gauges_at, measure_at
from research.models.architecture import Architecture, ForwardContext
from research.models.hparams import HParams
from research.parallel.collectives import batch_axis_size, psum_tree, shard_batch
from research.parallel.mesh import SINGLE_DEVICE, Layout, init_layout, map_runs, replicated
from research.training.compiler_options import (
    ALL_CORES_OPTIONS,
    FAST_COMPILE_OPTIONS,
    SHORT_COMPILE_OPTIONS,
    select_known,
)
from research.training.exponents import count_exponents
from research.training.inspections import inspect
from research.training.layer_params import STAGES, stages_of, without_layer
from research.training.losses import loss_and_accuracy
from research.training.objective import (
    Batch,
    Data,
    augment_and_shard,
    epoch_permutation,
    graph_of,
    make_model,
    make_objective,
    normalize_inputs,
    select_batch,
    step_key,
    steps_per_epoch,
)
from research.training.optimizers import clip_gradient, learning_rate, make_optimizer
from research.training.program_config import ProgramConfig
from research.training.reduction import StepResults, all_reduce_step
from research.training.rounding import cast_params
from research.training.scaling import first_scale, has_not_diverged, is_finite, next_scale
from research.training.state import TrainState

ROUNDING = 2**32 - 2  # which random key of a step is for stochastic rounding
Metrics = dict[str, Any]


@dataclass(frozen=True)
class Program:
    """The compiled functions of a family of runs.

    Attributes:
        init: (hp) → state.
        chunk: (state, hp, data, start, steps) → state, and metrics with a steps axis after M, of
            which the first ``steps`` rows count. Without ``vmap``, a run that has no steps in all,
            because it only fills up a device, trains none.
        evaluate: (state, hp, data) → loss and accuracy of the evaluation split.
        exponents: (state, hp, data) → see ``count_exponents``.
        inspections: (state, hp, data) → see ``inspect``.
    """

    init: jax.stages.Wrapped
    chunk: jax.stages.Wrapped
    evaluate: jax.stages.Wrapped
    exponents: jax.stages.Wrapped
    inspections: jax.stages.Wrapped


@functools.lru_cache(maxsize=256)
def make_program(spec: ProgramConfig, layout: Layout = SINGLE_DEVICE) -> Program:
    """The program of ``spec`` on the devices of ``layout``.

    It is cached, so that nothing is traced twice.
    """

    def mapped(
        function: Callable,
        num_mapped: int,
        num_broadcast: int = 0,
        layout: Layout = layout,
    ) -> Callable:
        bound = functools.partial(function, spec)
        return map_runs(layout, bound, num_mapped=num_mapped, num_broadcast=num_broadcast)

    fast_options = select_known(FAST_COMPILE_OPTIONS)
    short_options = select_known(SHORT_COMPILE_OPTIONS)
    step_options = select_known(ALL_CORES_OPTIONS) if spec.architecture.convolves else {}
    if spec.fast_compile:
        step_options = step_options | fast_options
    init = mapped(init_state, num_mapped=1, layout=init_layout(layout))
    train_chunk = _chunk if layout.map_mode == "vmap" else _chunk_unless_filling
    chunk = mapped(train_chunk, num_mapped=2, num_broadcast=3)
    evaluate = mapped(_evaluate, num_mapped=2, num_broadcast=1)
    exponents = mapped(count_exponents, num_mapped=2, num_broadcast=1)
    inspections = mapped(inspect, num_mapped=2, num_broadcast=1, layout=replicated(layout))
    return Program(
        init=jax.jit(init, compiler_options=fast_options),
        chunk=jax.jit(chunk, donate_argnums=0, compiler_options=step_options),
        evaluate=jax.jit(evaluate, compiler_options=fast_options if spec.fast_compile else None),
        exponents=jax.jit(exponents, compiler_options=short_options),
        inspections=jax.jit(inspections, compiler_options=short_options),
    )


def init_state(spec: ProgramConfig, hp: HParams) -> TrainState:
    """The state of one run before its first step."""
    arch = spec.architecture
    key = jax.random.key(hp.seed)
    model = make_model(arch, hp, jax.random.fold_in(key, 0))
    _, params, model_state = nnx.split(model, nnx.Param, ...)
    wide = accumulator(jnp.dtype(arch.dtype))
    return TrainState(
        step=jnp.int32(0),
        params=params,
        model_state=jax.tree.map(lambda leaf: leaf.astype(wide), model_state),
        opt_state=make_optimizer(hp.optimizer, arch.hidden_rate).init(_widen(params)),
        key=key,
        loss_scale=first_scale(hp.precision),
    )


def _widen(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(accumulator(leaf.dtype)), tree)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Carry:
    """What the loop over the steps of a chunk passes on.

    Attributes:
        state: the state before the next step.
        order: the order of the examples [n] in the present epoch; empty where it is not needed.
        rows: the metrics of all steps [capacity, …], zero for those that are to come.
    """

    state: TrainState
    order: Array
    rows: Metrics


def _chunk(
    spec: ProgramConfig,
    state: TrainState,
    hp: HParams,
    data: Data,
    start: Array,
    steps: Array,
) -> tuple[TrainState, Metrics]:
    """Trains ``steps`` ≤ ``spec.capacity`` steps; batches are gathered on the device.

    Args:
        spec: the program.
        state: the state before step ``start``.
        hp: the hyperparameters.
        data: the training examples; where they are streamed, ``x`` and ``y`` hold the batches of
            these steps instead: [capacity, B, …].
        start: the number of the first step.
        steps: how many steps to train.
    """
    examples = data["x"].shape[0]
    has_gauges = spec.level is not Level.off

    def train_step(chunk_index: Array, carry: _Carry) -> _Carry:
        state = carry.state
        order = carry.order
        step = start + chunk_index
        if spec.shuffled:
            epoch_start = step % steps_per_epoch(spec, data) == 0
            epoch = step // steps_per_epoch(spec, data)
            order = lax.cond(
                epoch_start | (chunk_index == 0),
                lambda: epoch_permutation(state.key, epoch, examples),
                lambda: order,
            )
        stored = select_batch(spec, data, step, chunk_index, order)
        batch = augment_and_shard(spec, state, data, *stored)
        state, row = _run_step_at_interval(spec, has_gauges, step, state, hp, batch)
        write = functools.partial(lax.dynamic_update_index_in_dim, index=chunk_index, axis=0)
        return _Carry(state, order, jax.tree.map(write, carry.rows, row))

    def first_row() -> Metrics:
        stored = select_batch(spec, data, start, 0, no_order)
        batch = augment_and_shard(spec, state, data, *stored)
        return run_step(spec, has_gauges, state, hp, batch)[1]

    def empty_rows(row: jax.ShapeDtypeStruct) -> Array:
        return jnp.zeros((spec.capacity, *row.shape), row.dtype)

    no_order = jnp.zeros(examples if spec.shuffled else 0, jnp.int32)
    rows = jax.tree.map(empty_rows, jax.eval_shape(first_row))
    last = lax.fori_loop(0, steps, train_step, _Carry(state, no_order, rows))
    return last.state, last.rows


def _chunk_unless_filling(
    spec: ProgramConfig,
    state: TrainState,
    hp: HParams,
    data: Data,
    start: Array,
    steps: Array,
) -> tuple[TrainState, Metrics]:
    """As ``_chunk``, but a run that only fills up a device, and so has no steps, trains none."""
    num_steps = jnp.where(hp.total_steps > 0, steps, 0)
    return _chunk(spec, state, hp, data, start, num_steps)


def _run_step_at_interval(
    spec: ProgramConfig,
    has_gauges: bool,
    step: Array,
    state: TrainState,
    hp: HParams,
    batch: Batch,
) -> tuple[TrainState, Metrics]:
    """Runs one step.

    If the run has gauges, they run every ``measure.every`` steps and are NaN in between.
    """
    if not has_gauges or spec.measure_every == 1:
        return run_step(spec, has_gauges, state, hp, batch)

    def measured_step(state: TrainState) -> tuple[TrainState, Metrics]:
        return run_step(spec, True, state, hp, batch)

    _, row_shapes = jax.eval_shape(measured_step, state)

    def unmeasured_step(state: TrainState) -> tuple[TrainState, Metrics]:
        state, row = run_step(spec, False, state, hp, batch)
        blank = jax.tree.map(_full_of_nan, row_shapes)
        return state, blank | row

    is_due = step % spec.measure_every == 0
    return lax.cond(is_due, measured_step, unmeasured_step, state)


def _full_of_nan(shape: jax.ShapeDtypeStruct) -> Array:
    return jnp.full(shape.shape, jnp.nan, shape.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Updated:
    """The parts of the state that a skipped step leaves as they are."""

    params: Any
    opt_state: Any
    model_state: Any


# jit: the step is asked for the shapes of its outputs and then called, and is traced once for both.
@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def run_step(
    spec: ProgramConfig,
    is_measured: bool,
    state: TrainState,
    hp: HParams,
    batch: Batch,
) -> tuple[TrainState, Metrics]:
    """One update of one run.

    Args:
        spec: the program.
        is_measured: whether the gauges run.
        state: the state before the step.
        hp: the hyperparameters.
        batch: this device's examples and labels.

    Returns:
        The state after the step, and its row: numbers of the step and, where it is measured, the
        profile of every gauge.
    """
    arch = spec.architecture
    wide = accumulator(jnp.dtype(arch.dtype))
    level = spec.level if is_measured else Level.off

    objective = make_objective(spec, state, hp, batch, level=level)
    gradient = jax.grad(objective, (0, 1), has_aux=True)
    (grads, backward), forward = gradient(state.params, _make_slots(arch, level, wide))
    means = {"loss": forward.loss, "accuracy": forward.accuracy}
    reduced = all_reduce_step(StepResults(grads, means, forward.statistics | backward))
    loss = reduced.means["loss"]

    def unscale(leaf: Array) -> Array:
        return leaf.astype(wide) / state.loss_scale.value

    grads = jax.tree.map(unscale, reduced.grads)
    profile = dict(reduced.profile)
    for name in backward:
        profile[name] = unscale(profile[name])
    rate = learning_rate(hp.optimizer, state.step, hp.total_steps)
    row: Metrics = {
        "train_loss": loss,
        "train_accuracy": reduced.means["accuracy"],
        "loss_scale": state.loss_scale.value,
        "learning_rate": rate,
    }
    if is_measured:
        measured, row["grad_norm"] = _gradient_gauges(arch, hp, level, grads)
        profile |= measured
        grads_are_finite = jnp.isfinite(row["grad_norm"])
    else:
        grads_are_finite = is_finite(grads)
    finite = jnp.isfinite(loss) & grads_are_finite
    row["skipped"] = ~finite
    row["finite"] = has_not_diverged(hp.precision, state.loss_scale, loss, finite)

    def updated() -> _Updated:
        params, opt_state = _update(arch, state, hp, grads, rate)
        model_state = jax.tree.map(
            lambda new, old: new.astype(old.dtype), forward.model_state, state.model_state
        )
        return _Updated(params, opt_state, model_state)

    def unchanged() -> _Updated:
        return _Updated(state.params, state.opt_state, state.model_state)

    # A branch, because a selection would read and write all parameters.
    after = lax.cond(finite, updated, unchanged)
    if is_measured:
        row["profile"] = profile | _update_gauges(arch, hp, level, state.params, after.params)
    new_state = TrainState(
        step=state.step + 1,
        params=after.params,
        model_state=after.model_state,
        opt_state=after.opt_state,
        key=state.key,
        loss_scale=next_scale(hp.precision, state.loss_scale, finite),
    )
    return new_state, row


def _make_slots(
    arch: Architecture,
    level: Level,
    dtype: jnp.dtype,
) -> dict[str, Array]:
    """Zeros whose gradients become what the backward gauges measure."""
    gauges = list(gauges_at(Site.BACKWARD, level))
    if arch.shares_weights and GRAD_NORM.is_measured(level):
        gauges.append(GRAD_NORM)
    slots = {}
    for gauge in gauges:
        slots[gauge.name] = jnp.zeros(gauge.length(arch.layers), dtype)
    return slots


def _gradient_gauges(
    arch: Architecture,
    hp: HParams,
    level: Level,
    grads: Any,
) -> tuple[dict[str, Array], Array]:
    """The gauges of each layer's gradient, and the norm of the whole gradient.

    Layers that share their weights have measured ``grad_norm`` with probes, and no other gauge.
    """
    if arch.shares_weights:
        return {}, tree_euclidean(grads)
    stages = stages_of(arch, grads)
    measured = {}
    gauges = list(gauges_at(Site.GRADIENT, level))
    if arch.attends:
        gauges += gauges_at(Site.PROJECTION, level)
    for gauge in gauges:
        assert gauge.measure is not None
        measured[gauge.name] = each_layer(gauge.measure, stages, count=hp.num_layers)
    return measured, _global_norm(grads, measured[GRAD_NORM.name])


def _global_norm(grads: Any, layers: Array) -> Array:
    """The norm of the whole gradient, from the norms of the gradient of each layer."""
    others = [tree_euclidean(grads[part]) for part in grads if part != STAGES]
    return euclidean(jnp.concatenate([jnp.stack(others), layers]))


def _update_gauges(
    arch: Architecture,
    hp: HParams,
    level: Level,
    before: Any,
    after: Any,
) -> dict[str, Array]:
    """What the gauges of the update measure, one value a layer."""
    if not list(gauges_at(Site.UPDATE, level)):
        return {}
    stages_before = stages_of(arch, before)
    stages_after = stages_of(arch, after)
    weights, updates = weight_and_update_norms(stages_before, stages_after, hp.num_layers)
    measured = measure_at(Site.UPDATE, level, weights, updates)
    # Layers that share their weights have one value.
    return jax.tree.map(lambda values: jnp.broadcast_to(values, arch.layers), measured)


def _update(
    arch: Architecture,
    state: TrainState,
    hp: HParams,
    grads: Any,
    rate: Array,
) -> tuple[Any, Any]:
    """The parameters and the optimizer's state after the step.

    Computed in float32 or wider and rounded to the parameters' format once.
    """
    params = _widen(state.params)
    norm = None
    if arch.family and hp.optimizer.clip is Clip.global_norm:
        layers = layer_norms(stages_of(arch, grads), hp.num_layers)
        norm = _global_norm(grads, layers)
    clipped = clip_gradient(hp.optimizer, grads, params, norm)
    optimizer = make_optimizer(hp.optimizer, arch.hidden_rate)
    direction, opt_state = optimizer.update(clipped, state.opt_state, params)
    if hp.optimizer.frozen_layer is not None:
        direction = without_layer(arch, direction, hp.optimizer.frozen_layer)
    new_params = jax.tree.map(lambda old, change: old - rate * change, params, direction)
    key = None
    if _rounds_stochastically(hp.precision):
        key = jax.random.fold_in(step_key(state), ROUNDING)
    return cast_params(new_params, state.params, key), opt_state


def _rounds_stochastically(precision: Precision) -> bool:
    return isinstance(precision, BFloat16) and precision.stochastic_rounding


def _evaluate(
    spec: ProgramConfig,
    state: TrainState,
    hp: HParams,
    data: Mapping[str, Array],
) -> Metrics:
    """Loss and accuracy of the evaluation split, batch by batch; labels are not smoothed."""
    arch = spec.architecture
    graph = graph_of(arch, hp)
    ctx = ForwardContext(hp, train=False)
    examples = data["eval_x"].shape[0]
    batch_size = _round_up(min(spec.batch_size, examples), batch_axis_size())

    def sums(indices: Array) -> Array:
        model = nnx.merge(graph, state.params, state.model_state, copy=True)
        indices = shard_batch(indices)
        exists = indices < examples
        indices = jnp.minimum(indices, examples - 1)
        inputs = normalize_inputs(arch, data, data["eval_x"][indices])
        logits, _ = model(inputs, {}, ctx)
        zero = jnp.zeros((), accumulator(logits.dtype))
        loss = dataclasses.replace(hp.loss, label_smoothing=zero)
        losses, hits = loss_and_accuracy(loss, logits, data["eval_y"][indices])
        loss_sum = jnp.sum(jnp.where(exists, losses, 0))
        num_hits = jnp.sum(jnp.where(exists, hits, 0))
        return jnp.stack([loss_sum, num_hits])

    padded = _round_up(examples, batch_size)
    batches = jnp.arange(padded).reshape(-1, batch_size)
    totals = jnp.sum(lax.map(sums, batches), axis=0)
    loss, accuracy = psum_tree(totals) / examples
    return {"eval_loss": loss, "eval_accuracy": accuracy}


def _round_up(number: int, multiple: int) -> int:
    """The smallest multiple that is at least ``number``."""
    return -(-number // multiple) * multiple
