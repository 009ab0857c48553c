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
from research.models.stack import Architecture, Pass, Stack
from research.training.losses import loss_and_accuracy
from research.training.optimizers import clip, learning_rate, make_optimizer
from research.training.state import TrainState

ONCE = {"xla_backend_optimization_level": 0}  # runs once: a third of the compile time is worth more than its speed
HP = Mapping[str, Array]
Metrics = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Spec:
    """All that the compiled code depends on, besides the shapes of its arguments."""

    architecture: Architecture
    optimizer: str
    schedule: str
    clip: str
    loss: str
    batch_size: int
    level: str  # off, norms or full
    every: int  # steps between measured steps
    capacity: int = 64  # the most steps that one call of ``chunk`` takes

    @property
    def full_batch(self) -> bool:
        """Whether every step sees every example."""
        return self.optimizer == "gd"


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled functions of a family of runs.

    ``init(hp)`` → state. ``chunk(state, hp, data, start, steps)`` → state and metrics with a steps axis after M, of
    which the first ``steps`` rows count. ``evaluate(state, hp, data)`` → the held-out split's loss and accuracy.
    """

    init: jax.stages.Wrapped
    chunk: jax.stages.Wrapped
    evaluate: jax.stages.Wrapped


@functools.lru_cache(maxsize=256)
def make_program(spec: Spec) -> Program:
    """The program of ``spec``; asked again, the same one, so that nothing is traced twice."""
    return Program(
        init=jax.jit(lambda hp: lax.map(functools.partial(_init, spec), hp), compiler_options=ONCE),
        chunk=jax.jit(functools.partial(_over_runs, functools.partial(_chunk, spec)), donate_argnums=0),
        evaluate=jax.jit(functools.partial(_over_runs, functools.partial(_evaluate, spec))),
    )


def _over_runs(function: Callable, state: TrainState, hp: HP, *shared: Any) -> Any:
    return lax.map(lambda run: function(*run, *shared), (state, hp))


def _model(spec: Spec, hp: HP, key: Array) -> Stack:
    return Stack(spec.architecture, hp, rngs=nnx.Rngs(key))


def _graph(spec: Spec, hp: HP) -> nnx.GraphDef:
    return nnx.graphdef(nnx.eval_shape(lambda: _model(spec, hp, jax.random.key(0))))


def _init(spec: Spec, hp: HP) -> TrainState:
    key = jax.random.key(hp["seed"])
    _, params, rest = nnx.split(_model(spec, hp, jax.random.fold_in(key, 0)), nnx.Param, ...)
    optimizer = make_optimizer(spec.optimizer, hp)
    opt_state = optimizer.init(_widened(params))
    running = jax.tree.map(lambda leaf: leaf.astype(accumulator(jnp.dtype(spec.architecture.dtype))), rest)
    return TrainState(jnp.int32(0), params, running, opt_state, key, hp["precision.loss_scale"])


def _widened(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(accumulator(leaf.dtype)), tree)


def _order(state: TrainState, epoch: Array, examples: int) -> Array:
    """The order of the examples: a pure function of (seed, epoch)."""
    return jax.random.permutation(jax.random.fold_in(jax.random.fold_in(state.key, 1), epoch), examples)


def _inputs(data: Mapping[str, Array], rows: Array, dtype: str) -> Array:
    return ((rows.astype(data["scale"].dtype) - data["offset"]) * data["scale"]).astype(dtype)


def _chunk(
    spec: Spec, state: TrainState, hp: HP, data: Mapping[str, Array], start: Array, steps: Array
) -> tuple[TrainState, Metrics]:
    """Trains ``steps`` ≤ ``spec.capacity`` steps from step ``start``, the batches gathered on the device."""
    examples = data["x"].shape[0]
    per_epoch = examples // spec.batch_size
    measured = {"off": False, "norms": True, "full": True}[spec.level]

    def train(i: Array, carry: tuple) -> tuple:
        state, order, rows = carry
        step = start + i
        if spec.full_batch:
            batch = data["x"], data["y"]
        else:
            position, epoch = step % per_epoch, step // per_epoch
            order = lax.cond(position == 0, lambda: _order(state, epoch, examples), lambda: order)
            chosen = lax.dynamic_slice_in_dim(order, position * spec.batch_size, spec.batch_size)
            batch = data["x"][chosen], data["y"][chosen]
        batch = _inputs(data, batch[0], spec.architecture.dtype), batch[1]
        state, row = _measured_at_interval(spec, measured, step, state, hp, batch)
        put = functools.partial(lax.dynamic_update_index_in_dim, index=i, axis=0)
        return state, order, jax.tree.map(lambda column, value: put(column, value), rows, row)

    order = jnp.arange(examples) if spec.full_batch else _order(state, start // per_epoch, examples)
    example = jax.ShapeDtypeStruct((spec.batch_size, spec.architecture.inputs), spec.architecture.dtype)
    labels = jax.ShapeDtypeStruct((spec.batch_size,), data["y"].dtype)
    shapes = jax.eval_shape(functools.partial(_step, spec, measured), state, hp, (example, labels))[1]
    rows = jax.tree.map(lambda row: jnp.zeros((spec.capacity, *row.shape), row.dtype), shapes)
    state, _, rows = lax.fori_loop(0, steps, train, (state, order, rows))
    return state, rows


def _measured_at_interval(
    spec: Spec, measured: bool, step: Array, state: TrainState, hp: HP, batch: tuple
) -> tuple[TrainState, Metrics]:
    if not measured or spec.every == 1:
        return _step(spec, measured, state, hp, batch)
    shapes = jax.eval_shape(functools.partial(_step, spec, True), state, hp, batch)[1]

    def bare(state: TrainState) -> tuple[TrainState, Metrics]:
        state, row = _step(spec, False, state, hp, batch)
        return state, jax.tree.map(lambda shape: jnp.full(shape.shape, jnp.nan, shape.dtype), shapes) | row

    return lax.cond(step % spec.every == 0, lambda state: _step(spec, True, state, hp, batch), bare, state)


def _stages(params: Any) -> list[Any]:
    return list(params["stages"].values())


def _step(
    spec: Spec, measured: bool, state: TrainState, hp: HP, batch: tuple[Array, Array]
) -> tuple[TrainState, Metrics]:
    """One update; the row holds numbers of the step and, where ``measured``, a profile over layers."""
    arch, wide = spec.architecture, accumulator(jnp.dtype(spec.architecture.dtype))
    full = measured and spec.level == "full"
    layers = arch.depth
    slots = {"signal_grad": jnp.zeros(layers + 1, wide)} if measured else {}
    if full:
        slots |= {"branch_grad": jnp.zeros(layers, wide), "skip_grad": jnp.zeros(layers, wide)}
    told = Pass(hp, train=True, forward=measured, units=full)
    graph = _graph(spec, hp)

    def objective(params: Any, slots: dict[str, Array]) -> tuple[Array, tuple]:
        model = nnx.merge(graph, params, state.rest, copy=True)
        logits, forward = model(batch[0], slots, told)
        loss, accuracy = loss_and_accuracy(spec.loss, logits, batch[1], hp["loss.label_smoothing"])
        return loss * state.loss_scale, (loss, accuracy, forward, nnx.state(model, nnx.Not(nnx.Param)))

    grads, (loss, accuracy, forward, rest) = jax.grad(objective, (0, 1), has_aux=True)(state.params, slots)
    grads, backward = jax.tree.map(lambda leaf: leaf.astype(wide) / state.loss_scale, grads)
    params, opt_state, rate = _update(spec, state, hp, grads)
    row: Metrics = {"train_loss": loss, "train_accuracy": accuracy, "learning_rate": rate}
    row |= {"loss_scale": state.loss_scale, "finite": jnp.isfinite(loss)}
    if measured:
        row["profile"] = forward | backward | {"grad_norm": layer_norms(_stages(grads))}
        outer = [tree_euclidean(grads[part]) for part in grads if part != "stages"]
        row["grad_norm"] = euclidean(jnp.concatenate([jnp.stack(outer), row["profile"]["grad_norm"]]))
        row["finite"] &= jnp.isfinite(row["grad_norm"])
    if full:
        row["profile"] |= update_gauges(_stages(state.params), _stages(params))
    rest = jax.tree.map(lambda new, old: new.astype(old.dtype), rest, state.rest)
    new = TrainState(state.step + 1, params, rest, opt_state, state.key, state.loss_scale)
    return new, row


def _update(spec: Spec, state: TrainState, hp: HP, grads: Any) -> tuple[Any, Any, Array]:
    """The parameters after the step, computed in float32 or wider and rounded to the weights' format once."""
    params = _widened(state.params)
    optimizer = make_optimizer(spec.optimizer, hp)
    clipped = clip(spec.clip, grads, params, hp["optimizer.clip_threshold"])
    direction, opt_state = optimizer.update(clipped, state.opt_state, params)
    rate = learning_rate(spec.schedule, state.step, hp)
    new = jax.tree.map(
        lambda old, wide, change: (wide - rate * change).astype(old.dtype), state.params, params, direction
    )
    return new, opt_state, rate


def _evaluate(spec: Spec, state: TrainState, hp: HP, data: Mapping[str, Array]) -> Metrics:
    model = nnx.merge(_graph(spec, hp), state.params, state.rest, copy=True)
    inputs = _inputs(data, data["eval_x"], spec.architecture.dtype)
    logits, _ = model(inputs, {}, Pass(hp, train=False))
    loss, accuracy = loss_and_accuracy(spec.loss, logits, data["eval_y"], jnp.zeros((), accumulator(logits.dtype)))
    return {"eval_loss": loss, "eval_accuracy": accuracy}
