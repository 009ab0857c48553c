"""Initial weights and biases by scheme; their scale is an argument of the program."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from research.config.options import Init, InitKind, SchurInit
from research.theory.variance import VARIANCE_SCALING, weight_scale

Initializer = Callable[..., Array]


def make_weight_initializer(init: Init, factor: float | Array = 1.0) -> Initializer:
    """Returns an initializer that draws by the scheme and multiplies by its scale and ``factor``.

    The scale is ``gain``, and for ``gaussian`` ``gain · sigma_w``. The initializer draws in float32
    or wider, which decompositions need, and rounds to ``dtype``.

    Args:
        init: the option, with arrays for its traced numbers.
        factor: a further scale factor on the weights.
    """
    scale = weight_scale(init) * factor
    scheme = _scheme(init)

    def draw(
        key: Array,
        shape: tuple[int, ...],
        dtype: jnp.dtype = jnp.float32,
        **_: object,
    ) -> Array:
        wide = jnp.promote_types(dtype, jnp.float32)
        return (scale * scheme(key, shape, wide)).astype(dtype)

    return draw


def _scheme(init: Init) -> Initializer:
    if isinstance(init, SchurInit):
        return partial(_schur, init)
    match init.kind:
        case InitKind.zeros:
            return jax.nn.initializers.zeros
        case InitKind.orthogonal:  # Saxe, McClelland, Ganguli 2014
            return jax.nn.initializers.orthogonal()
        case InitKind.delta_orthogonal:
            return _delta_orthogonal
    scaling = VARIANCE_SCALING[init.kind]
    return jax.nn.initializers.variance_scaling(scaling.scale, scaling.mode, scaling.distribution)


def _schur(
    init: SchurInit,
    key: Array,
    shape: tuple[int, ...],
    dtype: jnp.dtype,
) -> Array:
    """Q(ρI + νU)Qᵀ with a random orthogonal Q and U strictly upper triangular, Var U = 1/n.

    All eigenvalues are ρ; for ν > 0 the matrix is not normal, so its powers grow before they shrink
    as ρ^t (``theory.nonnormal``). Maps that are not square have Var W = 1/fan_in.
    """
    if len(shape) != 2 or shape[0] != shape[1]:
        return jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")(key, shape, dtype)
    basis_key, upper_key = jax.random.split(key)
    basis = jax.nn.initializers.orthogonal()(basis_key, shape, dtype)
    width = shape[0]
    draws = jax.random.normal(upper_key, shape, dtype)
    upper = jnp.triu(draws, k=1) / width**0.5
    diagonal = init.spectral_radius * jnp.eye(width, dtype=dtype)
    triangular = diagonal + init.nonnormality * upper
    return basis @ triangular @ basis.T


def _delta_orthogonal(
    key: Array,
    shape: tuple[int, ...],
    dtype: jnp.dtype,
) -> Array:
    """A kernel with an orthogonal matrix at its centre and zeros around it.

    The weights of a linear map are an orthogonal matrix. Outputs beyond the inputs lie in the span
    of the others, so norms are kept where there are at least as many outputs as inputs (Xiao et al.
    2018, algorithm 1).
    """
    middle = tuple(size // 2 for size in shape[:-2])
    matrix = jax.nn.initializers.orthogonal()(key, shape[-2:], dtype)
    return jnp.zeros(shape, dtype).at[middle].set(matrix)


def make_bias_initializer(init: Init) -> Initializer:
    """Returns an initializer that draws from N(bias_mean, sigma_b²).

    It draws in float32 or wider and rounds to ``dtype``.
    """

    def draw(
        key: Array,
        shape: tuple[int, ...],
        dtype: jnp.dtype = jnp.float32,
        **_: object,
    ) -> Array:
        wide = jnp.promote_types(dtype, jnp.float32)
        noise = jax.random.normal(key, shape, wide)
        return (init.bias_mean + init.sigma_b * noise).astype(dtype)

    return draw
