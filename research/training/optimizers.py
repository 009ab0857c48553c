"""Optimizers, schedules and clipping by name, built inside the program from traced numbers."""

import functools
import math
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from research.config.options import (
    AdaGrad,
    Adam,
    Clip,
    DecayMask,
    Lion,
    Momentum,
    Muon,
    Optimizer,
    OptimizerKind,
    RMSProp,
    Schedule,
)
from research.gauges.norms import nonzero_or_one, tree_euclidean
from research.training.layer_params import MATRIX_NAMES, STAGES, path_names


def make_optimizer(
    optimizer: Optimizer,
    hidden_rate: float = 1.0,
) -> optax.GradientTransformation:
    """The direction of the update; the learning rate multiplies it afterwards.

    With g the gradient, μ ``momentum``, β₁, β₂ ``beta1`` and ``beta2``, ε ``epsilon``, all averages
    initially 0:

    - ``gd``, ``sgd``: g; they differ in the batch alone.
    - ``momentum``: m ← μ·m + g. ``nesterov``: g + μ·m of that m (Nesterov 1983, as in Sutskever et
      al. 2013).
    - ``adagrad``: g/√(v + ε), v ← v + g² (Duchi et al. 2011, with ε under the root).
    - ``rmsprop``: g/(√v + ε), v ← β₂·v + (1−β₂)·g² (Tieleman & Hinton 2012; without bias
      correction).
    - ``adam``, ``adamw``: Kingma & Ba 2015, Algorithm 1.
    - ``lion``: sign(β₁·m + (1−β₁)·g), then m ← β₂·m + (1−β₂)·g (Chen et al. 2023, Algorithm 2).
    - ``muon``: see ``_scale_by_muon`` (Jordan et al. 2024).

    Weight decay is added to the gradient, except where it is decoupled: ``adamw`` (Loshchilov &
    Hutter 2019), ``lion`` (Chen et al. 2023) and ``muon`` (Liu et al. 2025). With
    ``decay_mask=matrices`` it acts on matrices, kernels and embeddings only.

    Args:
        optimizer: the option, with arrays for its traced numbers.
        hidden_rate: a factor on Adam's updates of weights between hidden units. Weight decay that
            is decoupled does not change with it.

    Raises:
        ValueError: there is no such optimizer.
    """
    mask = _matrices if optimizer.decay_mask is DecayMask.matrices else None
    decay = optax.add_decayed_weights(optimizer.weight_decay, mask)
    match optimizer:
        case Muon():
            return optax.chain(_scale_by_muon(optimizer), decay)
        case Adam(kind=OptimizerKind.adam):
            return optax.chain(decay, _scale_by_adam(optimizer), *_scale_hidden(hidden_rate))
        case Adam():
            return optax.chain(_scale_by_adam(optimizer), *_scale_hidden(hidden_rate), decay)
        case RMSProp(beta2=beta2, epsilon=epsilon):
            return optax.chain(decay, optax.scale_by_rms(beta2, epsilon, eps_in_sqrt=False))
        case AdaGrad(epsilon=epsilon):
            return optax.chain(decay, optax.scale_by_rss(0.0, epsilon))
        case Lion(beta1=beta1, beta2=beta2):
            return optax.chain(optax.scale_by_lion(beta1, beta2), decay)
        case Momentum(momentum=momentum, kind=kind):
            nesterov = kind is OptimizerKind.nesterov
            return optax.chain(decay, optax.trace(momentum, nesterov=nesterov))
        case Optimizer(kind=OptimizerKind.gd | OptimizerKind.sgd):
            return decay
    raise ValueError(f"unknown optimizer {optimizer.kind}")


def preconditioner(optimizer: Optimizer, opt_state: Any) -> Any:
    """The positive numbers by which the last update divided each parameter's direction.

    With v the average of squared gradients, t the number of updates and ε ``epsilon``:

    - ``adam``, ``adamw``: (1 − β₁ᵗ)·(√(v/(1 − β₂ᵗ)) + ε), what divides the average m of gradients.
    - ``rmsprop``: √v + ε. ``adagrad``: √(v + ε).

    Args:
        optimizer: the option, with arrays for its traced numbers.
        opt_state: the state of ``make_optimizer(optimizer)`` after that update.

    Returns:
        A tree like the parameters; 1 where the number is 0.

    Raises:
        ValueError: the optimizer divides by nothing of the kind.

    References:
        Cohen et al., Adaptive gradient methods at the edge of stability, 2022, §3.
    """
    match optimizer:
        case Adam(kind=OptimizerKind.adam | OptimizerKind.adamw, beta1=beta1, beta2=beta2):
            count = optax.tree.get(opt_state, "count")
            mean_correction = 1 - beta1**count
            square_correction = 1 - beta2**count

            def divisor(square: Array) -> Array:
                root = jnp.sqrt(square / square_correction)
                return mean_correction * (root + optimizer.epsilon)

            squares = optax.tree.get(opt_state, "nu")
        case RMSProp(kind=OptimizerKind.rmsprop):

            def divisor(square: Array) -> Array:
                return jnp.sqrt(square) + optimizer.epsilon

            squares = optax.tree.get(opt_state, "nu")
        case AdaGrad(kind=OptimizerKind.adagrad):

            def divisor(square: Array) -> Array:
                return jnp.sqrt(square + optimizer.epsilon)

            squares = optax.tree.get(opt_state, "sum_of_squares")
        case _:
            raise ValueError(f"optimizer must be adaptive, got {optimizer.kind.name}")
    return jax.tree.map(lambda square: nonzero_or_one(divisor(square)), squares)


def _matrices(params: Any) -> Any:
    """For each parameter, whether it is a matrix, a kernel or an embedding, and not of a gate."""

    def is_matrix(path: tuple, _: Array) -> bool:
        names = path_names(path)
        return names[-1] in MATRIX_NAMES and "gate" not in names

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def _scale_by_adam(optimizer: Adam) -> optax.GradientTransformation:
    return optax.scale_by_adam(optimizer.beta1, optimizer.beta2, optimizer.epsilon)


def _scale_hidden(factor: float) -> list[optax.GradientTransformation]:
    """A transformation that multiplies updates of hidden matrices; none for a factor of 1."""
    if factor == 1:
        return []

    def scale(path: tuple, leaf: Array) -> Array:
        return factor * leaf if _is_hidden_matrix(path) else leaf

    def scale_tree(updates: Any, params: Any) -> Any:
        del params
        return jax.tree_util.tree_map_with_path(scale, updates)

    return [optax.stateless(scale_tree)]


def _scale_by_muon(optimizer: Muon) -> optax.GradientTransformation:
    """Momentum of hidden matrices with all singular values brought near 1; Adam for everything
    else.

    A matrix with I inputs and O outputs becomes √max(1, O/I)·U·p(S)·Vᵀ, where U·S·Vᵀ is the
    Nesterov momentum over its Frobenius norm + ε, and p five Newton-Schulz steps (Jordan et al.
    2024); the momentum is a bias-corrected average, as in optax. Each of the
    stacked layers, and each gate of a cell, is a separate matrix; a convolution's inputs are its
    kernel's pixels and channels.
    """

    def matrix(leaf: Array) -> optax.contrib.MuonDimensionNumbers:
        return optax.contrib.MuonDimensionNumbers(_input_axes(leaf), leaf.ndim - 1)

    def label(path: tuple, _: Array) -> str:
        return "hidden" if _is_hidden_matrix(path) else "other"

    orthogonal = optax.contrib.scale_by_muon(
        beta=optimizer.momentum,
        eps=optimizer.epsilon,
        weight_dimension_numbers=functools.partial(jax.tree.map, matrix),
    )
    rescale = optax.stateless(lambda updates, _: jax.tree.map(_scale_by_shape, updates))
    transforms: dict[Hashable, optax.GradientTransformation] = {
        "hidden": optax.chain(orthogonal, rescale),
        "other": _scale_by_adam(optimizer),
    }
    label_tree = functools.partial(jax.tree_util.tree_map_with_path, label)
    return optax.partition(transforms, label_tree)


def _is_hidden_matrix(path: tuple) -> bool:
    """Whether weights between hidden units lie there: not the embedding, the head, or a cell's
    input.
    """
    names = path_names(path)
    return names[0] in ("stages", "cell") and names[-1] in ("kernel", "recurrent")


def _input_axes(leaf: Array) -> tuple[int, ...]:
    """The axes before the last, except for a leading axis of layers or gates."""
    first = 1 if leaf.ndim > 2 else 0
    return tuple(range(first, leaf.ndim - 1))


def _scale_by_shape(leaf: Array) -> Array:
    inputs = math.prod(leaf.shape[axis] for axis in _input_axes(leaf))
    return leaf * max(1, leaf.shape[-1] / inputs) ** 0.5


def learning_rate(
    optimizer: Optimizer,
    step: Array,
    total_steps: Array,
) -> Float[Array, ""]:
    """The learning rate of an update.

    With r ``learning_rate``, e ``end_value``, t ``step`` and T ``total_steps``:

    - ``warmup``: rises linearly from r/warmup_steps over ``warmup_steps``, then stays.
    - ``cosine``: e + (r − e)·½(1 + cos(πp)), p = t/decay_steps at most 1 (Loshchilov & Hutter
      2017).
    - ``warmup_cosine``: the warm-up, then that cosine of the steps that ``decay_steps`` has left.
    - ``polynomial``: e + (r − e)·(1 − p)^power, p = t/transition_steps at most 1.
    - ``linear``: the same with power 1.
    - ``exponential``: r·decay_rate^(t/transition_steps), at least e; with ``staircase`` the
      exponent is rounded down.
    - ``warmup_exponential``: the warm-up, then that decay.
    - ``step``: r·decay_factor^k with k the number of ``boundaries`` b ≤ t; without boundaries, they
      are T/2 and 3T/4 (He et al. 2016).

    Where ``decay_steps`` or ``transition_steps`` is 0, it is the number of steps that remain of T.
    These are the schedules of Optax, with a warm-up whose first step has a learning rate.

    Args:
        optimizer: the option, with arrays for its traced numbers.
        step: the number of the update, from 0.
        total_steps: how many there are.

    Raises:
        ValueError: there is no such schedule.
    """
    peak = jnp.asarray(optimizer.learning_rate)
    step = step.astype(peak.dtype)
    total = total_steps.astype(peak.dtype)
    warmup = jnp.asarray(optimizer.warmup_steps).astype(peak.dtype)
    rising = peak * (step + 1) / jnp.maximum(warmup, 1)
    match optimizer.schedule:
        case Schedule.constant:
            return peak
        case Schedule.warmup:
            return jnp.minimum(peak, rising)
        case Schedule.cosine:
            return _cosine(optimizer, step, _duration(optimizer.decay_steps, total))
        case Schedule.warmup_cosine:
            duration = _duration(optimizer.decay_steps, total) - warmup
            falling = _cosine(optimizer, step - warmup, duration)
            return jnp.where(step < warmup, rising, falling)
        case Schedule.linear:
            return _polynomial(optimizer, step, total, power=1)
        case Schedule.polynomial:
            return _polynomial(optimizer, step, total, power=optimizer.power)
        case Schedule.exponential:
            return _exponential(optimizer, step, total)
        case Schedule.warmup_exponential:
            falling = _exponential(optimizer, step - warmup, total - warmup)
            return jnp.where(step < warmup, rising, falling)
        case Schedule.step:
            boundaries = optimizer.boundaries or (total / 2, total * 3 / 4)
            decays = jnp.zeros_like(peak)
            for boundary in boundaries:
                decays += (step >= boundary).astype(peak.dtype)
            return peak * optimizer.decay_factor**decays
    raise ValueError(f"unknown schedule {optimizer.schedule}")


def depends_on_length(optimizer: Optimizer) -> bool:
    """Whether the learning rate of a step depends on how many steps the run has in all.

    Args:
        optimizer: the option, with its numbers as they were set.
    """
    match optimizer.schedule:
        case Schedule.constant | Schedule.warmup:
            return False
        case Schedule.cosine | Schedule.warmup_cosine:
            return not optimizer.decay_steps
        case Schedule.step:
            return not optimizer.boundaries
    return not optimizer.transition_steps


def _duration(steps: Any, total: Array) -> Array:
    """The steps of a schedule: ``steps``, or ``total`` where it is 0."""
    given = jnp.asarray(steps).astype(total.dtype)
    return jnp.where(given > 0, given, total)


def _progress(step: Array, duration: Array) -> Array:
    """How much of a schedule is over, from 0 to 1."""
    return jnp.clip(step / jnp.maximum(duration, 1), 0, 1)


def _cosine(
    optimizer: Optimizer,
    step: Array,
    duration: Array,
) -> Array:
    fall = jnp.asarray(optimizer.learning_rate) - optimizer.end_value
    height = 0.5 * (1 + jnp.cos(jnp.pi * _progress(step, duration)))
    return optimizer.end_value + fall * height


def _polynomial(
    optimizer: Optimizer,
    step: Array,
    total: Array,
    *,
    power: Any,
) -> Array:
    fall = jnp.asarray(optimizer.learning_rate) - optimizer.end_value
    duration = _duration(optimizer.transition_steps, total)
    return optimizer.end_value + fall * (1 - _progress(step, duration)) ** power


def _exponential(
    optimizer: Optimizer,
    step: Array,
    total: Array,
) -> Array:
    duration = _duration(optimizer.transition_steps, total)
    exponent = jnp.maximum(step, 0) / jnp.maximum(duration, 1)
    if optimizer.staircase:
        exponent = jnp.floor(exponent)
    rate = optimizer.learning_rate * optimizer.decay_rate**exponent
    return jnp.maximum(rate, optimizer.end_value)


def clip_gradient(
    optimizer: Optimizer,
    grads: Any,
    params: Any,
    norm: Array | None = None,
) -> Any:
    """Bounds the gradient: its global norm, each element, or each unit relative to its weights.

    ``adaptive`` is that of Brock et al. 2021, eq. 3, unit by unit of each layer: stacked layers,
    and the gates of a cell, are clipped separately. Norms are those of ``gauges.norms``, so an
    exploded gradient is bounded, not turned into zeros.

    Args:
        optimizer: the option, with arrays for its traced numbers.
        grads: the gradient.
        params: the parameters, of the same structure.
        norm: the norm of the whole gradient, where it is known.

    Returns:
        A tree like ``grads``.

    Raises:
        ValueError: there is no such way of clipping.
    """
    threshold = optimizer.clip_threshold
    match optimizer.clip:
        case Clip.none:
            return grads
        case Clip.global_norm:
            factor = _shrink_factor(threshold, tree_euclidean(grads) if norm is None else norm)
            return jax.tree.map(lambda grad: grad * factor, grads)
        case Clip.value:
            return jax.tree.map(lambda grad: jnp.clip(grad, -threshold, threshold), grads)
        case Clip.adaptive:
            clip_layer = functools.partial(_clip_units, threshold=threshold)

            def clip_leaf(
                path: tuple,
                grad: Array,
                param: Array,
            ) -> Array:
                clip_all = jax.vmap(clip_layer) if _is_stacked(path) else clip_layer
                return clip_all(grad, param)

            return jax.tree_util.tree_map_with_path(clip_leaf, grads, params)
    raise ValueError(f"unknown clip {optimizer.clip}")


def _is_stacked(path: tuple) -> bool:
    """Whether the first axis there is one of layers, or of the gates of a cell."""
    names = path_names(path)
    if names[0] == STAGES:
        return True
    has_gate_axis = names[-1] in ("recurrent", "input", "bias") and "norm" not in names
    return names[0] == "cell" and has_gate_axis


def _clip_units(
    grad: Array,
    param: Array,
    *,
    threshold: Any,
) -> Array:
    """Bounds each column of a matrix, or a whole vector or scalar, by ``threshold`` times its
    weights' norm.

    The weights' norm counts as at least 1e-3.
    """
    limit = threshold * jnp.maximum(tree_euclidean(_units(param), 1), 1e-3)
    factor = _shrink_factor(limit, tree_euclidean(_units(grad), 1))
    if grad.ndim > 1:
        units_last = (1,) * (grad.ndim - 1) + (-1,)
        return grad * factor.reshape(units_last)
    return grad * factor[0]


def _units(x: Array) -> Array:
    """The units of a matrix as rows; a vector or a scalar as a single row."""
    if x.ndim > 1:
        return x.reshape(-1, x.shape[-1]).T
    return x.reshape(1, -1)


def _shrink_factor(limit: Any, norm: Array) -> Array:
    return jnp.minimum(1, limit / jnp.where(norm > 0, norm, limit))
