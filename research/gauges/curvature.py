"""Slower measurements of a function: the curvature of a loss, the spectrum of a Jacobian, the error of differences."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from research.gauges.norms import accumulator, tree_euclidean

ITERATIONS = 32


def sharpness(
    gradient: Callable[[Any], Any], params: Any, key: Array, iterations: int = ITERATIONS
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The greatest eigenvalue of the Hessian at ``params``, and a bound on its distance from a true eigenvalue.

    By Lanczos' method on Hessian-vector products, from a random start that ``key`` decides. Vectors are not made
    orthogonal again: that repeats eigenvalues found already and spoils none (Paige 1980), and three vectors are kept.

    References:
        Lanczos, An iteration method for the solution of the eigenvalue problem, 1950. Parlett, The Symmetric
        Eigenvalue Problem, 1998, §13.2 (the bound |β_k s_k|).
    """
    draws = [
        jax.random.normal(jax.random.fold_in(key, n), leaf.shape)
        for n, leaf in enumerate(jax.tree.leaves(params))
    ]
    start = jax.tree.unflatten(jax.tree.structure(params), draws)
    start = jax.tree.map(lambda draw, leaf: draw.astype(leaf.dtype), start, params)
    start = _scaled(start, 1 / tree_euclidean(start))

    def iterate(carry: tuple, _: None) -> tuple[tuple, tuple[Array, Array]]:
        before, vector, beta = carry
        image = jax.jvp(gradient, (params,), (vector,))[1]
        alpha = _product(vector, image)
        rest = jax.tree.map(lambda a, v, b: a - alpha * v - beta * b, image, vector, before)
        length = tree_euclidean(rest)
        return (vector, _scaled(rest, 1 / jnp.where(length > 0, length, 1)), length), (
            alpha,
            length,
        )

    nothing = jax.tree.map(jnp.zeros_like, start)
    _, (alphas, betas) = lax.scan(
        iterate, (nothing, start, jnp.zeros_like(_product(start, start))), length=iterations
    )
    values, vectors = jnp.linalg.eigh(
        jnp.diag(alphas) + jnp.diag(betas[:-1], 1) + jnp.diag(betas[:-1], -1)
    )
    return values[-1], jnp.abs(betas[-1] * vectors[-1, -1])


def _product(a: Any, b: Any) -> Float[Array, ""]:
    def wide(leaf):
        return leaf.astype(accumulator(leaf.dtype))

    products = jax.tree.map(lambda x, y: jnp.vdot(wide(x), wide(y)), a, b)
    return jax.tree.reduce(jnp.add, products)


def _scaled(tree: Any, factor: Array) -> Any:
    return jax.tree.map(lambda leaf: (leaf * factor).astype(leaf.dtype), tree)


def isometry(
    function: Callable[[Array], Array], at: Float[Array, " D"]
) -> tuple[Float[Array, " D"], Float[Array, ""]]:
    """The singular values of the Jacobian J of ``function`` at a point, the greatest first, and max |J − I|."""
    jacobian = jax.jacrev(function)(at)
    distance = jnp.max(jnp.abs(jacobian - jnp.eye(len(at), dtype=jacobian.dtype)))
    return jnp.linalg.svd(jacobian, compute_uv=False), distance


def mean_cosine(gradients: Float[Array, "B ..."]) -> Float[Array, ""]:
    """The mean cosine between the gradients of two different examples; those that are 0 do not count.

    NaN for fewer than two. From the sum s of the m unit vectors: (‖s‖² − m)/(m(m−1)).
    """
    rows = gradients.reshape(len(gradients), -1).astype(accumulator(gradients.dtype))
    lengths = tree_euclidean(rows, batch_axes=1)
    units = rows / jnp.where(lengths > 0, lengths, 1)[:, None]
    m = jnp.sum(lengths > 0)
    return (jnp.sum(jnp.sum(units, axis=0) ** 2) - m) / jnp.where(m > 1, m * (m - 1), jnp.nan)


def difference_errors(
    function: Callable[[Array], Array],
    at: Float[Array, "..."],
    direction: Float[Array, "..."],
    steps: Float[Array, " H"],
) -> dict[str, Float[Array, " H"]]:
    """Relative errors of a numerical derivative of a scalar along ``direction``, by step h, against the automatic one.

    ``forward`` (f(x+hv) − f(x))/h, ``central`` (f(x+hv) − f(x−hv))/2h (Baydin et al. 2018, §2.1).
    """
    here, exact = jax.jvp(function, (at,), (direction,))
    ahead, behind = (
        lax.map(lambda h: function(at + h * direction), sign * steps) for sign in (1, -1)
    )

    def error(measured):
        return jnp.abs(measured - exact) / jnp.abs(exact)

    return {
        "forward": error((ahead - here) / steps),
        "central": error((ahead - behind) / (2 * steps)),
    }


def mode_error(
    function: Callable[[Array], Array], at: Float[Array, "..."], direction: Float[Array, "..."]
) -> Float[Array, ""]:
    """The relative difference between the derivative along ``direction`` in forward mode and in reverse mode.

    Both are exact but for rounding: what is left is the rounding of automatic differentiation.
    """
    forward = jax.jvp(function, (at,), (direction,))[1]
    return jnp.abs(_product(jax.grad(function)(at), direction) - forward) / jnp.abs(forward)
