"""Initial weights and biases by scheme; their scale is an argument of the program, not part of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from research.config.options import GaussianInit, Init, InitKind, ScaledInit

Initializer = Callable[..., Array]


@dataclass(frozen=True)
class VarianceScaling:
    """Var W = scale / fan, as ``jax.nn.initializers.variance_scaling`` takes it."""

    scale: float
    mode: Any
    distribution: Any


VARIANCE_SCALING = {
    InitKind.he: VarianceScaling(2.0, "fan_in", "normal"),  # He et al. 2015, eq. 10
    InitKind.glorot: VarianceScaling(1.0, "fan_avg", "normal"),  # Glorot & Bengio 2010, eq. 12
    InitKind.glorot_uniform: VarianceScaling(1.0, "fan_avg", "uniform"),  # ibid., eq. 16
    InitKind.lecun: VarianceScaling(1.0, "fan_in", "normal"),  # LeCun et al. 1998, eq. 16
    # U(±1/√fan_in): Glorot & Bengio 2010, eq. 1
    InitKind.old_uniform: VarianceScaling(1 / 3, "fan_in", "uniform"),
    # times sigma_w: Poole et al. 2016, eq. 1
    InitKind.gaussian: VarianceScaling(1.0, "fan_in", "normal"),
}


def weight_initializer(init: Init, factor: float | Array = 1.0) -> Initializer:
    """Draws weights by the scheme, times ``gain`` (and ``sigma_w`` for ``gaussian``), times ``factor``.

    Draws in float32 or wider, which decompositions need, and rounds to the parameters' format.

    Args:
        init: the option, with arrays for its traced numbers.
        factor: a further scale factor on the weights.
    """
    scale = _scale(init) * factor
    scheme = _scheme(init.kind)

    def draw(
        key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32, **_: object
    ) -> Array:
        wide = jnp.promote_types(dtype, jnp.float32)
        return (scale * scheme(key, shape, wide)).astype(dtype)

    return draw


def _scale(init: Init) -> Any:
    match init:
        case GaussianInit(gain=gain, sigma_w=sigma_w):
            return gain * sigma_w
        case ScaledInit(gain=gain):
            return gain
    return 1.0


def _scheme(kind: InitKind) -> Initializer:
    match kind:
        case InitKind.zeros:
            return jax.nn.initializers.zeros
        case InitKind.orthogonal:  # Saxe, McClelland, Ganguli 2014
            return jax.nn.initializers.orthogonal()
        case InitKind.delta_orthogonal:
            return _delta_orthogonal
    scaling = VARIANCE_SCALING[kind]
    return jax.nn.initializers.variance_scaling(scaling.scale, scaling.mode, scaling.distribution)


def _delta_orthogonal(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """An orthogonal matrix at a kernel's centre, zeros around it; matrices are orthogonal as they are.

    Outputs beyond the inputs lie in the span of the others, so norms are kept where there are at
    least as many outputs as inputs (Xiao et al. 2018, algorithm 1).
    """
    middle = tuple(size // 2 for size in shape[:-2])
    matrix = jax.nn.initializers.orthogonal()(key, shape[-2:], dtype)
    return jnp.zeros(shape, dtype).at[middle].set(matrix)


def bias_initializer(init: Init) -> Initializer:
    """Draws biases from N(0, sigma_b²)."""

    def draw(
        key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32, **_: object
    ) -> Array:
        wide = jnp.promote_types(dtype, jnp.float32)
        return (init.sigma_b * jax.random.normal(key, shape, wide)).astype(dtype)

    return draw


def theoretical_variance(init: Init, fan_in: int, fan_out: int) -> float:
    """σ_w² = fan_in · E[W²] of a layer, the number that mean-field theory speaks of.

    Args:
        init: the option, with plain numbers.
        fan_in: inputs of the layer.
        fan_out: outputs of the layer.
    """
    squared = float(_scale(init)) ** 2
    match init.kind:
        case InitKind.zeros:
            return 0.0
        case InitKind.orthogonal | InitKind.delta_orthogonal:
            return squared * min(1.0, fan_in / fan_out)
    scaling = VARIANCE_SCALING[init.kind]
    ratio = 1.0 if scaling.mode == "fan_in" else 2 * fan_in / (fan_in + fan_out)
    return squared * scaling.scale * ratio
