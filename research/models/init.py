"""Initial weights and biases by scheme; the scale is an argument of the program, not part of it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

Initializer = Callable[..., Array]

_VARIANCE_SCALING: dict[
    str, tuple[float, Any, Any]
] = {  # name: (scale, mode, distribution) of Var W = scale / fan
    "he": (2.0, "fan_in", "normal"),  # He, Zhang, Ren, Sun 2015, eq. 10
    "glorot": (1.0, "fan_avg", "normal"),  # Glorot & Bengio 2010, eq. 12
    "glorot_uniform": (1.0, "fan_avg", "uniform"),  # Glorot & Bengio 2010, eq. 16
    "lecun": (1.0, "fan_in", "normal"),  # LeCun, Bottou, Orr, Müller 1998, eq. 16
    "old_uniform": (1 / 3, "fan_in", "uniform"),  # U(±1/√fan_in): Glorot & Bengio 2010, eq. 1
    "gaussian": (1.0, "fan_in", "normal"),  # times sigma_w: Poole et al. 2016, eq. 1
}


def weight_initializer(
    scheme: str, hp: Mapping[str, Array], factor: float | Array = 1.0
) -> Initializer:
    """Draws weights by ``scheme``, times ``init.gain`` (and ``init.sigma_w`` for ``gaussian``), times ``factor``.

    Drawn in float32 or wider and then rounded to the parameters' format, since decompositions need it.
    """
    scale = hp["init.gain"] * hp["init.sigma_w"] if scheme == "gaussian" else hp["init.gain"]
    scale = scale * factor

    def draw(
        key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32, **_: object
    ) -> Array:
        wide = jnp.promote_types(dtype, jnp.float32)
        return (scale * _scheme(scheme)(key, shape, wide)).astype(dtype)

    return draw


def _scheme(name: str) -> Initializer:
    if name == "zeros":
        return jax.nn.initializers.zeros
    if name == "orthogonal":  # Saxe, McClelland, Ganguli 2014
        return jax.nn.initializers.orthogonal()
    if name == "delta_orthogonal":
        return _delta_orthogonal
    return jax.nn.initializers.variance_scaling(*_VARIANCE_SCALING[name])


def _delta_orthogonal(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """An orthogonal matrix at a kernel's centre, zeros around it (Xiao et al. 2018, algorithm 1); matrices as they are.

    Outputs beyond the inputs lie in the span of the others: norms are kept where there are no fewer outputs.
    """
    middle = tuple(size // 2 for size in shape[:-2])
    matrix = jax.nn.initializers.orthogonal()(key, shape[-2:], dtype)
    return jnp.zeros(shape, dtype).at[middle].set(matrix)


def bias_initializer(hp: Mapping[str, Array]) -> Initializer:
    """Draws biases from N(0, init.sigma_b²)."""

    def draw(
        key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32, **_: object
    ) -> Array:
        wide = jnp.promote_types(dtype, jnp.float32)
        return (hp["init.sigma_b"] * jax.random.normal(key, shape, wide)).astype(dtype)

    return draw


def theoretical_variance(
    scheme: str, fan_in: int, fan_out: int, *, gain: float = 1.0, sigma_w: float = 1.0
) -> float:
    """σ_w² = fan_in · E[W²] of a layer, the number that mean-field theory speaks of."""
    factor = gain * sigma_w if scheme == "gaussian" else gain
    if scheme == "zeros":
        return 0.0
    if scheme in ("orthogonal", "delta_orthogonal"):
        return factor**2 * min(1.0, fan_in / fan_out)
    scale, mode, _ = _VARIANCE_SCALING[scheme]
    return factor**2 * scale * (1.0 if mode == "fan_in" else 2 * fan_in / (fan_in + fan_out))
