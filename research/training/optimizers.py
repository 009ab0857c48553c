"""Optimizers, schedules and clipping by name, built inside the program from traced numbers."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from research.gauges.norms import tree_euclidean


def make_optimizer(kind: str, hp: Mapping[str, Array]) -> optax.GradientTransformation:
    """The direction of the update; the learning rate multiplies it afterwards.

    ``gd`` and ``sgd`` differ in the batch alone. Weight decay is added to the gradient, except for ``adamw``, where
    it is decoupled (Loshchilov & Hutter 2019).
    """
    decay = optax.add_decayed_weights(hp["optimizer.weight_decay"])
    adam = optax.scale_by_adam(hp["optimizer.beta1"], hp["optimizer.beta2"], hp["optimizer.epsilon"])
    match kind:
        case "gd" | "sgd":
            return decay
        case "momentum":
            return optax.chain(decay, optax.trace(hp["optimizer.momentum"]))
        case "adam":
            return optax.chain(decay, adam)
        case "adamw":
            return optax.chain(adam, decay)
    raise ValueError(f"optimizer must be gd, sgd, momentum, adam or adamw, got {kind}")


def learning_rate(schedule: str, step: Array, hp: Mapping[str, Array]) -> Float[Array, ""]:
    """The learning rate of update ``step`` (from 0) of ``train.steps`` in all.

    ``warmup_cosine``: linear over ``warmup_steps``, from rate/warmup_steps, then half a cosine to 0 (Loshchilov &
    Hutter 2017).
    ``step``: times ``decay_factor`` at one half and again at three quarters of the run (He et al. 2016).
    ``linear``: straight to 0.
    """
    peak = hp["optimizer.learning_rate"]
    step, total = step.astype(peak.dtype), hp["train.steps"].astype(peak.dtype)
    match schedule:
        case "constant":
            return peak
        case "warmup_cosine":
            warmup = hp["optimizer.warmup_steps"].astype(peak.dtype)
            progress = jnp.clip((step - warmup) / jnp.maximum(total - warmup, 1), 0, 1)
            rising = (step + 1) / jnp.maximum(warmup, 1)
            return peak * jnp.where(step < warmup, rising, 0.5 * (1 + jnp.cos(jnp.pi * progress)))
        case "step":
            passed = (step >= total / 2).astype(peak.dtype) + (step >= total * 3 / 4)
            return peak * hp["optimizer.decay_factor"] ** passed
        case "linear":
            return peak * (1 - step / total)
    raise ValueError(f"schedule must be constant, warmup_cosine, step or linear, got {schedule}")


def clip(kind: str, grads: Any, params: Any, threshold: Array) -> Any:
    """Bounds the gradient: its global norm, each element, or each unit relative to its weights.

    ``adaptive`` is that of Brock et al. 2021, eq. 3, unit by unit of each layer: stacked layers are clipped as if
    they lay apart. Norms are those of ``gauges.norms``: an exploded gradient is bounded, not turned into zeros.
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
            by_layer = lambda path, *pair: (jax.vmap(one) if path[0].key == "stages" else one)(*pair)  # noqa: E731
            return jax.tree_util.tree_map_with_path(by_layer, grads, params)
    raise ValueError(f"clip must be none, global_norm, value or adaptive, got {kind}")


def _clip_units(grad: Array, param: Array, *, threshold: Array) -> Array:
    """Each column of a matrix, or a whole vector, against ``threshold`` times its weights' norm, at least 1e-3."""
    units = (lambda x: x.reshape(-1, x.shape[-1]).T) if grad.ndim > 1 else (lambda x: x.reshape(1, -1))
    limit = threshold * jnp.maximum(tree_euclidean(units(param), 1), 1e-3)
    shrink = _shrink(limit, tree_euclidean(units(grad), 1))
    return grad * (shrink.reshape((1,) * (grad.ndim - 1) + (-1,)) if grad.ndim > 1 else shrink[0])


def _shrink(limit: Array, norm: Array) -> Array:
    return jnp.minimum(1, limit / jnp.where(norm > 0, norm, limit))
