"""Optimizers, schedules and clipping by name, built inside the program from traced numbers."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from research.gauges.norms import tree_euclidean


def make_optimizer(kind: str, hp: Mapping[str, Array]) -> optax.GradientTransformation:
    """The direction of the update; the learning rate multiplies it afterwards.

    With g the gradient, μ ``momentum``, β₁, β₂ ``beta1`` and ``beta2``, ε ``epsilon``, all averages from 0:

    ``gd``, ``sgd``: g; they differ in the batch alone.
    ``momentum``: m ← μ·m + g. ``nesterov``: g + μ·m of that m (Nesterov 1983, as in Sutskever et al. 2013).
    ``adagrad``: g/√(v + ε), v ← v + g² (Duchi et al. 2011, with ε under the root).
    ``rmsprop``: g/(√v + ε), v ← β₂·v + (1−β₂)·g² (Tieleman & Hinton 2012; without a correction of the bias).
    ``adam``, ``adamw``: Kingma & Ba 2015, Algorithm 1.
    ``lion``: sign(β₁·m + (1−β₁)·g), then m ← β₂·m + (1−β₂)·g (Chen et al. 2023, Algorithm 2).
    ``muon``: see ``_muon`` (Jordan et al. 2024).

    Weight decay is added to the gradient, except where it is decoupled: ``adamw`` (Loshchilov & Hutter 2019), ``lion``
    (Chen et al. 2023) and ``muon`` (Liu et al. 2025).
    """
    decay = optax.add_decayed_weights(hp["optimizer.weight_decay"])
    mu, b1, b2, eps = (
        hp[f"optimizer.{name}"] for name in ("momentum", "beta1", "beta2", "epsilon")
    )
    match kind:
        case "gd" | "sgd":
            return decay
        case "momentum" | "nesterov":
            return optax.chain(decay, optax.trace(mu, nesterov=kind == "nesterov"))
        case "adagrad":
            return optax.chain(decay, optax.scale_by_rss(0.0, eps))
        case "rmsprop":
            return optax.chain(decay, optax.scale_by_rms(b2, eps, eps_in_sqrt=False))
        case "adam":
            return optax.chain(decay, optax.scale_by_adam(b1, b2, eps))
        case "adamw":
            return optax.chain(optax.scale_by_adam(b1, b2, eps), decay)
        case "lion":
            return optax.chain(optax.scale_by_lion(b1, b2), decay)
        case "muon":
            return optax.chain(_muon(mu, optax.scale_by_adam(b1, b2, eps), eps), decay)
    known = "gd, sgd, momentum, nesterov, adagrad, rmsprop, adam, adamw, lion or muon"
    raise ValueError(f"optimizer must be {known}, got {kind}")


def _muon(
    mu: Array, adam: optax.GradientTransformation, eps: Array
) -> optax.GradientTransformation:
    """Momentum of hidden matrices with all singular values brought near 1; ``adam`` for everything else.

    Of a matrix with I inputs and O outputs √max(1, O/I)·U·p(S)·Vᵀ, where U·S·Vᵀ is the Nesterov momentum over its
    Frobenius norm + ε, and p five Newton-Schulz steps (Jordan et al. 2024); momentum is an average without bias, as
    optax has it. Stacked layers and the gates of a cell are matrices of their own; a convolution's inputs are its
    kernel's pixels and channels.
    """

    def matrix(leaf):
        return optax.contrib.MuonDimensionNumbers(_input_axes(leaf), leaf.ndim - 1)

    axes = functools.partial(jax.tree.map, matrix)
    orthogonal = optax.contrib.scale_by_muon(beta=mu, eps=eps, weight_dimension_numbers=axes)
    hidden = optax.chain(
        orthogonal, optax.stateless(lambda updates, _: jax.tree.map(_scaled_by_shape, updates))
    )

    def label(path, _):
        return "hidden" if _is_hidden_matrix(path) else "other"

    return optax.partition(
        {"hidden": hidden, "other": adam},
        functools.partial(jax.tree_util.tree_map_with_path, label),
    )


def _is_hidden_matrix(path: tuple) -> bool:
    """Whether weights between hidden units lie there: not embedding, head, or what a cell reads the example with."""
    names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
    return names[0] in ("stages", "cell") and names[-1] in ("kernel", "recurrent")


def _input_axes(leaf: Array) -> tuple[int, ...]:
    """Those in front of the outputs' axis, the last, but for a first one of layers or gates."""
    return tuple(range(1 if leaf.ndim > 2 else 0, leaf.ndim - 1))


def _scaled_by_shape(leaf: Array) -> Array:
    inputs = math.prod(leaf.shape[axis] for axis in _input_axes(leaf))
    return leaf * max(1, leaf.shape[-1] / inputs) ** 0.5


def learning_rate(schedule: str, step: Array, hp: Mapping[str, Array]) -> Float[Array, ""]:
    """The learning rate of update ``step`` (from 0) of ``train.steps`` in all.

    ``warmup``: linear over ``warmup_steps``, from rate/warmup_steps, then constant; ``warmup_cosine``: then half a
    cosine to 0 (Loshchilov & Hutter 2017).
    ``step``: times ``decay_factor`` at one half and again at three quarters of the run (He et al. 2016).
    ``linear``: straight to 0.
    """
    peak = hp["optimizer.learning_rate"]
    step, total, warmup = (
        number.astype(peak.dtype)
        for number in (step, hp["train.steps"], hp["optimizer.warmup_steps"])
    )
    match schedule:
        case "constant":
            return peak
        case "warmup":
            return peak * jnp.minimum(1, (step + 1) / jnp.maximum(warmup, 1))
        case "warmup_cosine":
            progress = jnp.clip((step - warmup) / jnp.maximum(total - warmup, 1), 0, 1)
            rising = (step + 1) / jnp.maximum(warmup, 1)
            return peak * jnp.where(step < warmup, rising, 0.5 * (1 + jnp.cos(jnp.pi * progress)))
        case "step":
            passed = (step >= total / 2).astype(peak.dtype) + (step >= total * 3 / 4)
            return peak * hp["optimizer.decay_factor"] ** passed
        case "linear":
            return peak * (1 - step / total)
    raise ValueError(
        f"schedule must be constant, warmup, warmup_cosine, step or linear, got {schedule}"
    )


def clip(kind: str, grads: Any, params: Any, threshold: Array) -> Any:
    """Bounds the gradient: its global norm, each element, or each unit relative to its weights.

    ``adaptive`` is that of Brock et al. 2021, eq. 3, unit by unit of each layer: stacked layers, and the gates of a
    cell, are clipped as if they lay apart. Norms are those of ``gauges.norms``: an exploded gradient is bounded, not
    turned into zeros.
    """
    match kind:
        case "none":
            return grads
        case "global_norm":
            shrink = _shrink(threshold, tree_euclidean(grads))
            return jax.tree.map(lambda grad: grad * shrink, grads)
        case "value":
            return jax.tree.map(lambda grad: jnp.clip(grad, -threshold, threshold), grads)
        case "adaptive":
            one = functools.partial(_clip_units, threshold=threshold)

            def by_layer(path, *pair):
                return (jax.vmap(one) if _is_stacked(path) else one)(*pair)

            return jax.tree_util.tree_map_with_path(by_layer, grads, params)
    raise ValueError(f"clip must be none, global_norm, value or adaptive, got {kind}")


def _is_stacked(path: tuple) -> bool:
    """Whether the first axis there is one of layers, or of the gates of a cell."""
    names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
    return names[0] == "stages" or (
        names[0] == "cell" and names[-1] in ("recurrent", "input", "bias") and "norm" not in names
    )


def _clip_units(grad: Array, param: Array, *, threshold: Array) -> Array:
    """Each column of a matrix, or a whole vector, against ``threshold`` times its weights' norm, at least 1e-3."""
    units = (
        (lambda x: x.reshape(-1, x.shape[-1]).T) if grad.ndim > 1 else (lambda x: x.reshape(1, -1))
    )
    limit = threshold * jnp.maximum(tree_euclidean(units(param), 1), 1e-3)
    shrink = _shrink(limit, tree_euclidean(units(grad), 1))
    return grad * (shrink.reshape((1,) * (grad.ndim - 1) + (-1,)) if grad.ndim > 1 else shrink[0])


def _shrink(limit: Array, norm: Array) -> Array:
    return jnp.minimum(1, limit / jnp.where(norm > 0, norm, limit))
