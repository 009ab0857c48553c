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

from research.data.augment import augmented
from research.gauges.layers import layer_norms, update_gauges
from research.gauges.norms import accumulator, euclidean, tree_euclidean
from research.models.architecture import Architecture, Pass
from research.models.stack import Stack
from research.training.losses import losses_and_hits
from research.training.optimizers import clip, learning_rate, make_optimizer
from research.training.state import TrainState

# XLA's CPU backend hands smaller convolutions to a library that uses one core: without it they use all. Known in 0.10.
ON_ALL_CORES = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
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
    noisy: bool = False  # whether inputs get noise in training
    crop: int = 0  # zeros put around a training image before it is cut at random
    flip: bool = False  # whether half of the training images are mirrored
    streamed: bool = False  # whether batches come ready made, in order

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
        chunk=jax.jit(
            functools.partial(_over_runs, functools.partial(_chunk, spec)),
            donate_argnums=0,
            compiler_options=ON_ALL_CORES if _convolves_on_cpu(spec) else None,
        ),
        evaluate=jax.jit(functools.partial(_over_runs, functools.partial(_evaluate, spec))),
    )


def _convolves_on_cpu(spec: Spec) -> bool:
    images = spec.architecture.kind in ("cnn", "resnet_cifar", "resnet")
    return images and jax.default_backend() == "cpu" and jax.__version_info__ < (0, 11)


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


def order(key: Array, epoch: Array | int, examples: int) -> Array:
    """The order of the examples [n]: a pure function of (seed, epoch), ``key`` being the seed's."""
    return jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, 1), epoch), examples)


def _inputs(arch: Architecture, data: Mapping[str, Array], rows: Array) -> Array:
    """What the network reads: standardised numbers, or tokens as they are."""
    if arch.vocabulary:
        return rows.astype(jnp.int32)
    return ((rows.astype(data["scale"].dtype) - data["offset"]) * data["scale"]).astype(arch.dtype)


def _chunk(
    spec: Spec, state: TrainState, hp: HP, data: Mapping[str, Array], start: Array, steps: Array
) -> tuple[TrainState, Metrics]:
    """Trains ``steps`` ≤ ``spec.capacity`` steps from step ``start``, the batches gathered on the device.

    Where they are streamed, ``x`` and ``y`` hold the batches of these steps instead: [capacity, B, …].
    """
    examples = data["x"].shape[0]
    per_epoch = max(1, examples // spec.batch_size)  # of streamed batches it is not asked
    arch, measured = spec.architecture, spec.level != "off"

    def train(i: Array, carry: tuple) -> tuple:
        state, places, rows = carry
        step = start + i
        if spec.full_batch:
            batch = data["x"], data["y"]
        elif spec.streamed:
            batch = data["x"][i], data["y"][i]
        else:
            position, epoch = step % per_epoch, step // per_epoch
            places = lax.cond(position == 0, lambda: order(state.key, epoch, examples), lambda: places)
            chosen = lax.dynamic_slice_in_dim(places, position * spec.batch_size, spec.batch_size)
            batch = data["x"][chosen], data["y"][chosen]
        batch = augmented(_inputs(arch, data, batch[0]), arch.shape, spec.crop, spec.flip, state.key, step), batch[1]
        state, row = _measured_at_interval(spec, measured, step, state, hp, batch)
        put = functools.partial(lax.dynamic_update_index_in_dim, index=i, axis=0)
        return state, places, jax.tree.map(lambda column, value: put(column, value), rows, row)

    shuffled = not (spec.full_batch or spec.streamed)
    places = order(state.key, start // per_epoch, examples) if shuffled else jnp.arange(0)
    some = 0 if spec.streamed else slice(spec.batch_size)
    first = data["x"][some], data["y"][some]
    batch_of_one = lambda rows, labels: _step(spec, measured, state, hp, (_inputs(arch, data, rows), labels))  # noqa: E731
    shapes = jax.eval_shape(batch_of_one, *first)[1]
    rows = jax.tree.map(lambda row: jnp.zeros((spec.capacity, *row.shape), row.dtype), shapes)
    state, _, rows = lax.fori_loop(0, steps, train, (state, places, rows))
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


def _stages(arch: Architecture, params: Any) -> list[list[Any]]:
    """The parameters as ``layer_norms`` takes them; shared ones as those of a single layer."""
    if arch.shared:
        return [[jax.tree.map(lambda leaf: leaf[None], params["cell"])]]
    stacks = iter(params["stages"].values())
    return [[next(stacks) for _ in stage.parts] for stage in arch.plan]


def _step(
    spec: Spec, measured: bool, state: TrainState, hp: HP, batch: tuple[Array, Array]
) -> tuple[TrainState, Metrics]:
    """One update; the row holds numbers of the step and, where ``measured``, a profile over layers."""
    arch, wide = spec.architecture, accumulator(jnp.dtype(spec.architecture.dtype))
    full = measured and spec.level == "full"
    slots = {name: jnp.zeros(length, wide) for name, length in _slots(arch, measured, full).items()}
    key = jax.random.fold_in(jax.random.fold_in(state.key, 2), state.step)
    told = Pass(hp, train=True, forward=measured, units=full, key=key if arch.random else None)
    inputs = _with_noise(batch[0], jax.random.fold_in(key, 2**32 - 1), hp) if spec.noisy else batch[0]
    graph = _graph(spec, hp)

    def objective(params: Any, slots: dict[str, Array]) -> tuple[Array, tuple]:
        model = nnx.merge(graph, params, state.rest, copy=True)
        logits, forward = model(inputs, slots, told)
        losses, hits = losses_and_hits(spec.loss, logits, batch[1], hp["loss.label_smoothing"])
        loss, accuracy = jnp.mean(losses), jnp.mean(hits)
        return loss * state.loss_scale, (loss, accuracy, forward, nnx.state(model, nnx.Not(nnx.Param)))

    grads, (loss, accuracy, forward, rest) = jax.grad(objective, (0, 1), has_aux=True)(state.params, slots)
    grads, backward = jax.tree.map(lambda leaf: leaf.astype(wide) / state.loss_scale, grads)
    params, opt_state, rate = _update(spec, state, hp, grads)
    row: Metrics = {"train_loss": loss, "train_accuracy": accuracy, "learning_rate": rate}
    row |= {"loss_scale": state.loss_scale, "finite": jnp.isfinite(loss)}
    if measured:
        row["profile"], row["grad_norm"] = _gradient_gauges(arch, forward | backward, grads)
        row["finite"] &= jnp.isfinite(row["grad_norm"])
    if full:
        updates = update_gauges(_stages(arch, state.params), _stages(arch, params))
        row["profile"] |= {name: jnp.broadcast_to(values, arch.layers) for name, values in updates.items()}
    rest = jax.tree.map(lambda new, old: new.astype(old.dtype), rest, state.rest)
    new = TrainState(state.step + 1, params, rest, opt_state, state.key, state.loss_scale)
    return new, row


def _slots(arch: Architecture, measured: bool, full: bool) -> dict[str, int]:
    """The lengths of the slots that are measured with."""
    n = arch.layers
    lengths = {"signal_grad": n + 1} | ({"grad_norm": n} if arch.shared else {}) if measured else {}
    return lengths | ({"branch_grad": n, "skip_grad": n} if full else {})


def _with_noise(x: Array, key: Array, hp: HP) -> Array:
    return x + (hp["train.input_noise"] * jax.random.normal(key, x.shape)).astype(x.dtype)


def _gradient_gauges(arch: Architecture, profile: Metrics, grads: Any) -> tuple[Metrics, Array]:
    """The profile with the norm of each layer's gradient, and the norm of the whole gradient.

    Layers that share their weights have measured their parts of the gradient by themselves.
    """
    if arch.shared:
        return profile, tree_euclidean(grads)
    layers = layer_norms(_stages(arch, grads))
    outer = jnp.stack([tree_euclidean(grads[part]) for part in grads if part != "stages"])
    return profile | {"grad_norm": layers}, euclidean(jnp.concatenate([outer, layers]))


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
    """Loss and accuracy of the held-out split, batch by batch."""
    graph, examples = _graph(spec, hp), data["eval_x"].shape[0]
    size = min(spec.batch_size, examples)

    def sums(rows: Array) -> Array:
        model = nnx.merge(graph, state.params, state.rest, copy=True)
        real, rows = rows < examples, jnp.minimum(rows, examples - 1)
        logits, _ = model(_inputs(spec.architecture, data, data["eval_x"][rows]), {}, Pass(hp, train=False))
        each = losses_and_hits(spec.loss, logits, data["eval_y"][rows], jnp.zeros((), accumulator(logits.dtype)))
        return jnp.stack([jnp.sum(jnp.where(real, values, 0)) for values in each])

    batches = jnp.arange(-(-examples // size) * size).reshape(-1, size)
    loss, accuracy = jnp.sum(lax.map(sums, batches), axis=0) / examples
    return {"eval_loss": loss, "eval_accuracy": accuracy}
