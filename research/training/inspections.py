"""Slower measurements of a run's present state, beside the step and on an interval: see ``measure.inspect``.

They are taken with float32 arithmetic or wider, of the training loss with the batch's own statistics, of the first
training examples in their order. What the run draws at random a loss draws as the next step would, outputs always
alike.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from research.gauges.curvature import (
    difference_errors,
    isometry,
    mean_cosine,
    mode_error,
    sharpness,
)
from research.gauges.layers import layer_norms
from research.gauges.norms import euclidean
from research.gauges.symmetries import balance, layer_cosines, scale_derivatives, unit_cosines
from research.models.architecture import ForwardContext
from research.models.stack import Stack
from research.training.layer_params import is_kernel, kernels_of
from research.training.losses import loss_and_accuracy
from research.training.objective import HP, graph_of, make_objective, normalize_inputs
from research.training.program_config import ProgramConfig
from research.training.state import LossScale, TrainState

EXAMPLES = 1024  # the most that sharpness is averaged over, but for full batches
COMPARED = 256  # the most examples whose gradients are compared or kept one by one
STEPS = 10.0 ** -(0.5 * np.arange(2, 29))  # of numerical derivatives, in units of the weights' norm

Data = Mapping[str, Array]
Diagnostics = dict[str, Array]


def inspect(spec: ProgramConfig, state: TrainState, hp: HP, data: Data) -> Diagnostics:
    """Everything that ``spec.inspections`` names, by the names of the columns that it is recorded in.

    Where data are streamed, the first examples are those of the present batch.
    """
    if spec.streamed:
        data = {**data, "x": data["x"][0], "y": data["y"][0]}
    wide = _widened(spec, state)
    return {
        name: value
        for kind in spec.inspections
        for name, value in _KINDS[kind](*wide, hp, data).items()
    }


def _widened(spec: ProgramConfig, state: TrainState) -> tuple[ProgramConfig, TrainState]:
    arch = spec.architecture
    formats = {
        name: str(jnp.promote_types(getattr(arch, name), jnp.float32))
        for name in ("dtype", "param_dtype")
    }
    params = jax.tree.map(lambda leaf: leaf.astype(formats["param_dtype"]), state.params)
    unscaled = LossScale(jnp.ones_like(state.loss_scale.value), state.loss_scale.finite_streak)
    state = dataclasses.replace(state, params=params, loss_scale=unscaled)
    return dataclasses.replace(
        spec, architecture=dataclasses.replace(arch, rounding="", **formats)
    ), state


def _loss(
    spec: ProgramConfig, state: TrainState, hp: HP, data: Data, rows: Array
) -> Callable[[Any], Array]:
    batch = normalize_inputs(spec.architecture, data, data["x"][rows]), data["y"][rows]
    objective = make_objective(spec, state, hp, batch)
    return lambda params: objective(params, {})[0]


def _sharpness(spec: ProgramConfig, state: TrainState, hp: HP, data: Data) -> Diagnostics:
    """The greatest eigenvalue of the Hessian of the training loss, and the error bound of ``curvature.sharpness``."""
    examples = len(data["x"])
    batches = 1 if spec.full_batch else max(1, min(examples, EXAMPLES) // spec.batch_size)
    rows = jnp.arange(batches * (examples if spec.full_batch else spec.batch_size)).reshape(
        batches, -1
    )

    def gradient(params: Any) -> Any:
        each = lax.map(lambda part: jax.grad(_loss(spec, state, hp, data, part))(params), rows)
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), each)

    value, bound = sharpness(gradient, state.params, jax.random.fold_in(state.key, 3))
    return {"sharpness": value, "sharpness_bound": bound}


def _network(spec: ProgramConfig, state: TrainState, hp: HP) -> Stack:
    return nnx.merge(graph_of(spec.architecture, hp), state.params, state.model_state, copy=True)


def _told(spec: ProgramConfig, state: TrainState, hp: HP) -> ForwardContext:
    return ForwardContext(
        hp, train=True, key=jax.random.fold_in(state.key, 4) if spec.architecture.random else None
    )


def _outputs(
    spec: ProgramConfig, state: TrainState, hp: HP, params: Any, x: Array, ctx: ForwardContext
) -> Array:
    """The network's outputs with other parameters than the state's."""
    return _network(spec, dataclasses.replace(state, params=params), hp)(x, {}, ctx)[0]


def _jacobian_spectrum(spec: ProgramConfig, state: TrainState, hp: HP, data: Data) -> Diagnostics:
    """Singular values [D] of J = ∂h_N/∂h_0 at the first example, the greatest first, and the greatest |J − I|.

    Batch norm as in evaluation.
    """
    ctx = ForwardContext(hp, train=False)
    first = normalize_inputs(spec.architecture, data, data["x"][:1])
    h = _network(spec, state, hp).begin(first, ctx)

    def through(h):
        return _network(spec, state, hp).through(h[None], {}, ctx)[0][0]

    values, distance = isometry(through, h[0])
    return {"jacobian_spectrum": values, "jacobian_distance": distance}


def _gradient_correlation(
    spec: ProgramConfig, state: TrainState, hp: HP, data: Data
) -> Diagnostics:
    """The mean cosine [N+1] between the gradients ∂⟨v, h_N⟩/∂h_l of two examples, with one random v for all of them.

    Behind batch norm an example's gradient has parts that come from the others' outputs: these have random signs, which
    are taken off again, so that in the mean over pairs those parts cancel.

    References:
        Balduzzi et al., The shattered gradients problem, 2017.
    """
    ctx = _told(spec, state, hp)
    model = _network(spec, state, hp)
    h = model.begin(normalize_inputs(spec.architecture, data, data["x"][:COMPARED]), ctx)
    v = jax.random.normal(jax.random.fold_in(state.key, 5), h.shape[1:], h.dtype)
    signs = jax.random.rademacher(
        jax.random.fold_in(state.key, 7), (len(h),) + (1,) * (h.ndim - 1), h.dtype
    )
    layers = jnp.zeros((spec.architecture.layers, *h.shape), h.dtype)

    def forward(h: Array, slots: Array) -> Array:
        return jnp.sum(
            _network(spec, state, hp).through(h, {"signal_grad": slots}, ctx)[0] * v[None] * signs
        )

    first, others = jax.grad(forward, (0, 1))(h, layers)
    return {
        "gradient_correlation": lax.map(
            mean_cosine, jnp.concatenate([first[None], others]) * signs[None]
        )
    }


def _input_gradient(spec: ProgramConfig, state: TrainState, hp: HP, data: Data) -> Diagnostics:
    """The gradient [K, inputs] of the first output with respect to each of the first examples."""
    ctx = _told(spec, state, hp)
    x = normalize_inputs(spec.architecture, data, data["x"][:COMPARED])

    def first(x):
        return jnp.sum(_network(spec, state, hp)(x, {}, ctx)[0][..., 0])

    return {"input_gradient": jax.grad(first)(x)}


def _output_change(spec: ProgramConfig, state: TrainState, hp: HP, data: Data) -> Diagnostics:
    """The root mean square, over the first batch's outputs, of what one step of gradient descent changes them by.

    The step is W − η·∂L/∂W of all weights and vectors of tokens, with that batch's loss L and the run's learning rate
    η, whatever the run's optimizer. Biases, norms' parameters and learned scales stay, as in the theory: N of them
    that lie on the stream itself would add N times the same.

    References:
        Wang et al., DeepNet, 2022, §4.2: the model update.
    """
    rows = jnp.arange(spec.batch_size)
    ctx = _told(spec, state, hp)
    x = normalize_inputs(spec.architecture, data, data["x"][rows])
    gradient = jax.grad(_loss(spec, state, hp, data, rows))(state.params)
    stepped = jax.tree_util.tree_map_with_path(
        lambda path, old, g: old if _is_kept(path) else old - hp["optimizer.learning_rate"] * g,
        state.params,
        gradient,
    )
    before, after = (
        _outputs(spec, state, hp, params, x, ctx) for params in (state.params, stepped)
    )
    change = after - before
    return {"output_change": euclidean(change) / change.size**0.5}


def _difference_errors(spec: ProgramConfig, state: TrainState, hp: HP, data: Data) -> Diagnostics:
    """Errors [H] of numerical derivatives of the first batch's loss, along a direction as long as the weights.

    ``mode_error`` is how far the automatic ones, in forward and in reverse mode, are from each other.
    """
    loss = _loss(spec, state, hp, data, jnp.arange(spec.batch_size))
    flat, restore = ravel_pytree(state.params)
    direction = jax.random.normal(jax.random.fold_in(state.key, 6), flat.shape, flat.dtype)
    direction *= euclidean(flat) / euclidean(direction)
    steps = jnp.asarray(STEPS, flat.dtype)

    def along(flat):
        return loss(restore(flat))

    errors = difference_errors(along, flat, direction, steps)
    found = {f"{name}_difference_error": error for name, error in errors.items()}
    return {"difference_step": steps, "mode_error": mode_error(along, flat, direction)} | found


def _scale_derivative(spec: ProgramConfig, state: TrainState, hp: HP, data: Data) -> Diagnostics:
    """⟨W, ∂L/∂W⟩ [N] of each layer's weights, and ⟨f, ∂L/∂f⟩ of the first batch's outputs f.

    All are one number where the outputs are linear along each layer's weights (Euler): for rectifiers and linear
    units without biases, norms and shortcuts.
    """
    arch = spec.architecture
    ctx = _told(spec, state, hp)
    x = normalize_inputs(arch, data, data["x"][: spec.batch_size])
    y = data["y"][: spec.batch_size]

    def network(params):
        return _outputs(spec, state, hp, params, x, ctx)

    outputs, back = jax.vjp(network, state.params)

    def loss(f):
        return jnp.mean(loss_and_accuracy(spec.loss, f, y, hp["loss.label_smoothing"])[0])

    at_outputs = jax.grad(loss)(outputs)
    weights = kernels_of(arch, state.params)
    gradients = kernels_of(arch, back(at_outputs)[0])
    return {
        "scale_derivative": scale_derivatives(weights, gradients),
        "output_scale_derivative": jnp.vdot(outputs, at_outputs),
    }


def _scale_invariance(spec: ProgramConfig, state: TrainState, hp: HP, data: Data) -> Diagnostics:
    """Three numbers a layer [N] that are 0 where the first batch's loss does not depend on the scale of its weights W.

    The cosine between W and ∂L/∂W; the greatest |cosine| of one unit's part of them; ‖2g(2W) − g(W)‖/‖g(W)‖, with
    g = ∂L/∂W and all layers' weights, not the head's, doubled at once (van Laarhoven 2017, §2).
    """
    arch = spec.architecture
    gradient = jax.grad(_loss(spec, state, hp, data, jnp.arange(spec.batch_size)))

    def inside(path):
        return path[0].key == "stages" and is_kernel(path)

    doubled = jax.tree.map_with_path(
        lambda path, leaf: 2 * leaf if inside(path) else leaf, state.params
    )
    trees = state.params, gradient(state.params), gradient(doubled)
    weights, here, there = (kernels_of(arch, tree) for tree in trees)
    change = jax.tree.map(lambda g, g2: 2 * g2 - g, here, there)
    return {
        "layer_cosine": layer_cosines(weights, here),
        "unit_cosine": unit_cosines(weights, here),
        "rescaling_error": layer_norms(change) / layer_norms(here),
    }


def _balance(spec: ProgramConfig, state: TrainState, hp: HP, data: Data) -> Diagnostics:
    """‖w_in‖² + b² − ‖w_out‖² [N+1, D] of each unit, which gradient flow keeps in rectifier and linear networks."""
    embed = state.params["embed"]
    layers = state.params["stages"][0]["branch"]["weights"][0]
    head = state.params["head"]
    biased = spec.architecture.bias
    biases = jnp.concatenate([embed["bias"][None], layers["bias"][...]]) if biased else None
    kept = balance(embed["kernel"][...], layers["kernel"][...], head["kernel"][...], biases)
    return {"balance": kept}


def _is_kept(path: tuple) -> bool:
    names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
    return names[-1] in ("alpha", "bias", "inner", "scale", "shifts")


_KINDS = {
    "sharpness": _sharpness,
    "jacobian_spectrum": _jacobian_spectrum,
    "gradient_correlation": _gradient_correlation,
    "input_gradient": _input_gradient,
    "output_change": _output_change,
    "difference_errors": _difference_errors,
    "scale_derivative": _scale_derivative,
    "scale_invariance": _scale_invariance,
    "balance": _balance,
}
