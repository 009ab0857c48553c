"""``fathom.preflight``: whether anybody's JAX model will train, before it does."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from research.config.arguments import check_function, check_positive, check_whole, short_repr
from research.diagnosis.measurement import Measurement
from research.diagnosis.preflight import Preflight, predict_training
from research.gauges.curvature import sharpness
from research.gauges.table import GRAD_NORM, SIGNAL_GRAD, UPDATE_RATIO
from research.theory.formats import FORMATS, underflow_fraction
from research.watching.adapters import is_imported
from research.watching.gauges import Gauges
from research.watching.marks import is_float_array
from research.watching.selection import AUTO, NothingToMeasure, Select
from research.watching.watch import Watch, check_chance_loss

LANCZOS_ITERATIONS = 16
PARALLEL = 0.999  # cosine from which on an update has the direction of the gradient
LEAST_EXAMPLES = 2  # of a batch, which is cut into halves


def preflight(
    loss_fn: Callable[..., Any],
    params: Any,
    batch: Any,
    optimizer: Any = None,
    *,
    steps: int = 300,
    trial_steps: int = 0,
    chance_loss: float | None = None,
    epsilon: float | None = None,
    select: Select = AUTO,
) -> Preflight:
    """Predicts from its first update whether a model will train.

    The two halves of the batch are two batches: the first is differentiated and updated on, the
    second is looked at. Nothing of the model or the optimizer is changed.

    The probability was calibrated on small networks of Fathom (``experiments/predict``), not on
    yours. What is measured, and which number decides, holds for any model.

    Args:
        loss_fn: ``loss_fn(params, batch)`` returns the mean loss of a batch.
        params: a tree of arrays, or a model of NNX or Equinox.
        batch: a tree of arrays with the examples on the leading axis of each.
        optimizer: an Optax optimizer with its learning rate; None for gradient descent at 0.01.
        steps: how many updates the model is to be trained for.
        trial_steps: how many steps are tried on the first half of the batch.
        chance_loss: the loss of the best constant prediction, such as ln 10 for ten classes; None:
            the loss of the first batch stands for it.
        epsilon: what Adam and its kin add to their denominator, to say which layers are below it.
        select: which layers are measured, as for ``fathom.watch``. Where none is found, what is
            said of layers is left out.

    Returns:
        What is expected: ``probability``, ``reasons``, ``sentence``; ``print`` it for a report.

    Raises:
        TypeError: a parameter or a batch cannot be used.
        ValueError: the batch has fewer than two examples, or a number is out of its range.

    Example:
        >>> import jax, jax.numpy as jnp, optax, fathom
        >>> def loss(params, batch):
        ...     return jnp.mean((jnp.tanh(batch @ params["in"]) @ params["out"] - 1) ** 2)
        >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 1))}
        >>> expected = fathom.preflight(loss, params, jnp.eye(4, 3), optax.sgd(0.1))
        >>> 0 < expected.probability < 1
        True
    """
    check_function("loss_fn", loss_fn)
    check_whole("steps", steps, least=1)
    check_whole("trial_steps", trial_steps, least=0)
    if chance_loss is not None:
        check_chance_loss(chance_loss)
    if epsilon is not None:
        check_positive("epsilon", epsilon, "Adam's 1e-8")
    first, second = _halves(batch)
    if optimizer is None:
        import optax

        optimizer = optax.sgd(0.01)
    if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
        raise TypeError(f"optimizer must be an Optax optimizer, got a {type(optimizer).__name__}")
    model = _split_model(loss_fn, params)
    gauges = _measure_layers(loss_fn, params, first, select)
    started = _start(model, optimizer, first, second)
    _check_finite(batch, started.losses[:2])
    trial = None
    if trial_steps:
        trial = _try_steps(model, optimizer, first, trial_steps)
    measured = _read(
        started,
        gauges,
        model,
        steps=steps,
        chance_loss=chance_loss,
        epsilon=epsilon,
        trial=trial,
    )
    return predict_training(dataclasses.replace(measured, notes=_describe_batch(batch)))


@dataclass(frozen=True)
class _Model:
    """A model as arrays and a pure function.

    Attributes:
        params: its parameters, a tree.
        loss: ``loss(params, batch)``.
    """

    params: Any
    loss: Callable[[Any, Any], Any]


def _split_model(loss_fn: Callable[..., Any], params: Any) -> _Model:
    if _is_nnx(params):
        from flax import nnx

        graph, variables, others = nnx.split(params, nnx.Param, ...)

        def loss_of_module(variables: Any, batch: Any) -> Any:
            return loss_fn(nnx.merge(graph, variables, others, copy=True), batch)

        return _Model(variables, loss_of_module)
    leaves, structure = jax.tree.flatten(params)
    places = [place for place, leaf in enumerate(leaves) if is_float_array(leaf)]
    if not places:
        raise TypeError("params must hold floating-point arrays, got none")

    def loss_of_arrays(arrays: list[Any], batch: Any) -> Any:
        filled = list(leaves)
        for place, array in zip(places, arrays, strict=True):
            filled[place] = array
        return loss_fn(jax.tree.unflatten(structure, filled), batch)

    return _Model([leaves[place] for place in places], loss_of_arrays)


def _is_jax_dtype(dtype: np.dtype) -> bool:
    is_number = jnp.issubdtype(dtype, np.number) or dtype == np.bool_
    return is_number and dtype.isnative


def _check_finite(batch: Any, losses: Sequence[float]) -> None:
    """Refuses a batch that holds numbers which are not finite where its loss is not finite either.

    A batch may hold infinities that do no harm, such as those of a mask.

    Args:
        batch: a tree of arrays.
        losses: the losses of its halves.

    Raises:
        ValueError: saying where the first such number is.
    """
    if all(math.isfinite(loss) for loss in losses):
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        if not is_float_array(leaf):
            continue
        places = np.argwhere(~np.isfinite(np.asarray(leaf, np.float32)))
        if len(places):
            place = ", ".join(map(str, places[0].tolist()))
            raise ValueError(
                f"{_name_leaf(path)} must be finite, because its loss is not, but "
                f"[{place}] is the first of {len(places)} numbers that are not"
            )


def _describe_batch(batch: Any) -> tuple[str, ...]:
    """What of a batch may explain a result, or was left out."""
    notes = []
    num_examples = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        num_examples = len(leaf)
        are_labels = leaf.ndim == 1 and not is_float_array(leaf)
        if (are_labels or is_float_array(leaf)) and bool((leaf == leaf[:1]).all()):
            notes.append(f"{_name_leaf(path)} holds the same numbers for all examples")
        elif are_labels and _differ_in_halves(np.asarray(leaf)):
            notes.append(
                f"the halves of {_name_leaf(path)} have no number in common, as if it were "
                "sorted: shuffle the examples"
            )
    if num_examples % 2:
        notes.append(f"the last of the {num_examples} examples is in neither half of the batch")
    return tuple(notes)


def _differ_in_halves(labels: np.ndarray) -> bool:
    """Whether labels [B], some of which are equal, have no value in both halves of a batch."""
    half = len(labels) // 2
    values = np.unique(labels)
    common = np.intersect1d(labels[:half], labels[half : 2 * half])
    return len(values) <= half and not len(common)


def _name_leaf(path: Any) -> str:
    return f"batch{jax.tree_util.keystr(path)}"


def _halves(batch: Any) -> tuple[Any, Any]:
    """The two halves of a batch, of the same size.

    Raises:
        TypeError: it holds no arrays.
        ValueError: its arrays have no common leading axis, or too few examples.
    """
    sizes: dict[int, str] = {}  # with the name of the first array of each size
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        name = _name_leaf(path)
        if not getattr(leaf, "ndim", 0):
            raise TypeError(
                f"{name} must be an array with a leading axis, got {short_repr(leaf)}: "
                "numpy.asarray makes one of a list"
            )
        if isinstance(leaf, np.ndarray) and not _is_jax_dtype(leaf.dtype):
            raise TypeError(
                f"{name} must hold numbers that JAX reads, got "
                f"{leaf.dtype.str}: .astype(numpy.float32) makes such numbers"
            )
        sizes.setdefault(leaf.shape[0], name)
    if not sizes:
        raise TypeError(f"batch must hold arrays with a leading axis, got {short_repr(batch)}")
    if len(sizes) != 1:
        got = ", ".join(f"{size} in {name}" for size, name in sizes.items())
        raise ValueError(f"all arrays of batch must have as many examples, got {got}")
    [examples] = sizes
    if examples < LEAST_EXAMPLES:
        raise ValueError(f"batch must have at least {LEAST_EXAMPLES} examples, got {examples}")
    half = examples // 2
    first = jax.tree.map(lambda leaf: leaf[:half], batch)
    second = jax.tree.map(lambda leaf: leaf[half : 2 * half], batch)
    return first, second


@dataclass(frozen=True)
class _Layers:
    """What is measured of each layer, and the watch that does so."""

    watch: Watch
    gauges: Gauges


def _measure_layers(
    loss_fn: Callable[..., Any],
    params: Any,
    batch: Any,
    select: Select,
) -> _Layers | None:
    """The gauges of the layers; None where there are none to be measured."""
    watch = Watch(select)

    def measure(params: Any, batch: Any) -> Gauges | None:
        differentiate = watch.value_and_grad(loss_fn, loss_scale=1)
        _, grads, gauges = differentiate(params, batch)
        return watch.exponents(gauges, grads)

    with contextlib.suppress(NothingToMeasure):
        if _is_nnx(params):
            from flax import nnx

            gauges = nnx.jit(measure)(nnx.clone(params), batch)
        else:
            gauges = jax.jit(functools.partial(measure, params))(batch)
        assert gauges is not None
        return _Layers(watch, gauges)
    return None


def _is_nnx(params: Any) -> bool:
    if not is_imported("flax.nnx"):
        return False
    from flax import nnx

    return isinstance(params, nnx.Module)


@dataclass(frozen=True)
class _Start:
    """The first update.

    Attributes:
        losses: of both halves before it, and of the second after it.
        decrease: by how much it lowers the loss of the second to first order.
        after: the parameters after it.
        update: the update, flat.
        next_update: the update if the same gradient came again, flat.
        gradient: the gradient of the first half, flat.
        sharpness: the greatest eigenvalue of the Hessian of the first half's loss.
    """

    losses: tuple[float, float, float]
    decrease: float
    after: Any
    update: np.ndarray
    next_update: np.ndarray
    gradient: np.ndarray
    sharpness: float


def _start(
    model: _Model,
    optimizer: Any,
    first: Any,
    second: Any,
) -> _Start:
    differentiate = jax.jit(jax.value_and_grad(model.loss))
    loss, gradient = differentiate(model.params, first)
    other_loss, other_gradient = differentiate(model.params, second)
    state = optimizer.init(model.params)
    updates, state = optimizer.update(gradient, state, model.params)
    after = jax.tree.map(jnp.add, model.params, updates)
    again, _ = optimizer.update(gradient, state, model.params)
    loss_after, _ = differentiate(after, second)

    def measure_curvature(params: Any) -> Any:
        gradient_of = jax.grad(model.loss)
        key = jax.random.key(0)
        value, _ = sharpness(lambda at: gradient_of(at, first), params, key, LANCZOS_ITERATIONS)
        return value

    flat_update = -_flatten(updates)
    flat_gradient = _flatten(gradient)
    return _Start(
        losses=(float(loss), float(other_loss), float(loss_after)),
        decrease=float(flat_update @ _flatten(other_gradient)),
        after=after,
        update=flat_update,
        next_update=-_flatten(again),
        gradient=flat_gradient,
        sharpness=float(jax.jit(measure_curvature)(model.params)),
    )


def _flatten(tree: Any) -> np.ndarray:
    return np.asarray(ravel_pytree(tree)[0], np.float64)


def _try_steps(
    model: _Model,
    optimizer: Any,
    batch: Any,
    steps: int,
) -> np.ndarray:
    """The loss of a batch before each of some steps on it, and after them [steps + 1]."""

    def train_step(carry: Any, _: None) -> tuple[Any, Any]:
        params, state = carry
        loss, gradient = jax.value_and_grad(model.loss)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return (jax.tree.map(jnp.add, params, updates), state), loss

    def train(params: Any) -> Any:
        start = params, optimizer.init(params)
        return jax.lax.scan(train_step, start, length=steps + 1)[1]

    return np.asarray(jax.jit(train)(model.params), np.float64)


@dataclass(frozen=True)
class _Rate:
    """An optimizer as gradient descent with momentum, if it is that.

    Attributes:
        learning_rate: the factor on the gradient; the size of a typical update otherwise.
        momentum: the factor on the last update; 0 without.
        is_plain: whether its update has the direction of the gradient.
    """

    learning_rate: float
    momentum: float
    is_plain: bool


def _read_rate(started: _Start) -> _Rate:
    """What the optimizer does to a gradient that comes twice."""
    size = float(np.linalg.norm(started.update))
    gradient_size = float(np.linalg.norm(started.gradient))
    if not size > 0 or not gradient_size > 0:
        return _Rate(0.0, 0.0, False)
    cosine = float(started.update @ started.gradient) / (size * gradient_size)
    if cosine < PARALLEL:
        return _Rate(size / len(started.update) ** 0.5, 0.0, False)
    growth = float(np.linalg.norm(started.next_update)) / size - 1
    momentum = min(0.999, growth) if growth > 1e-3 else 0.0
    return _Rate(size / gradient_size, momentum, True)


def _read(
    started: _Start,
    layers: _Layers | None,
    model: _Model,
    *,
    steps: int,
    chance_loss: float | None,
    epsilon: float | None,
    trial: np.ndarray | None,
) -> Measurement:
    rate = _read_rate(started)
    ceiling = None
    if rate.is_plain and started.sharpness > 0:
        ceiling = 2 * (1 + rate.momentum) / started.sharpness
    numbers = [*started.losses, started.decrease]
    is_finite = bool(np.isfinite(numbers).all())
    of_layers: dict[str, Any] = {}
    if layers is not None:
        of_layers = _read_layers(layers, model, started)
    else:
        of_layers = {UPDATE_RATIO.name: _ratios_of_arrays(model, started)}
    return Measurement(
        steps=steps,
        loss=started.losses[0],
        chance_loss=chance_loss,
        loss_after=started.losses[2],
        decrease=started.decrease,
        other_loss=started.losses[1],
        learning_rate=rate.learning_rate,
        total_updates=steps / (1 - rate.momentum),
        is_finite=is_finite,
        ceiling=ceiling,
        sharpness=started.sharpness,
        epsilon=epsilon,
        trial=trial,
        **of_layers,
    )


def _read_layers(
    layers: _Layers,
    model: _Model,
    started: _Start,
) -> dict[str, Any]:
    """The fields of a measurement that have one number for each layer."""
    gauges = layers.watch.updates(layers.gauges, model.params, started.after)
    assert gauges is not None
    profile = gauges.profile()
    elements = [layer.parameters for layer in gauges.table.layers]
    lost = {}
    histogram = np.asarray(profile["grad_exponent"])
    for name in FORMATS:
        lost[name] = underflow_fraction(histogram, name)
    gradients = np.asarray(profile[GRAD_NORM.name], np.float64)
    return {
        SIGNAL_GRAD.name: np.asarray(profile[SIGNAL_GRAD.name], np.float64),
        "grad_rms": gradients / np.sqrt(np.maximum(1, elements)),
        UPDATE_RATIO.name: np.asarray(profile[UPDATE_RATIO.name], np.float64),
        "lost": lost,
    }


def _ratios_of_arrays(model: _Model, started: _Start) -> np.ndarray:
    """‖Δθ‖/‖θ‖ of each array of at least two axes; of all together where there is none."""
    ratios = []
    before = jax.tree.leaves(model.params)
    after = jax.tree.leaves(started.after)
    for old, new in zip(before, after, strict=True):
        weight = float(jnp.linalg.norm(old))
        if old.ndim > 1 and weight > 0:
            ratios.append(float(jnp.linalg.norm(new - old)) / weight)
    if not ratios:
        update_norm = np.linalg.norm(started.update)
        weight_norm = np.linalg.norm(_flatten(before))
        ratios.append(float(update_norm / weight_norm))
    return np.asarray(ratios)
