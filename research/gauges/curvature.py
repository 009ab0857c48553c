"""Slower measurements of a function: curvature, Jacobian spectrum, errors of differences."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from research.gauges.norms import accumulator, nonzero_or_one, tree_euclidean

ITERATIONS = 32
Scalar = Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _LanczosState:
    """The last two unit vectors of Lanczos' method, and the length that the last one had."""

    previous: Any
    vector: Any
    beta: Array


def sharpness(
    gradient: Callable[[Any], Any],
    params: Any,
    key: Array,
    iterations: int = ITERATIONS,
) -> tuple[Scalar, Scalar]:
    """The largest eigenvalue of the Hessian, by Lanczos' method on Hessian-vector products.

    Vectors are not orthogonalised again: that repeats eigenvalues that were already found but
    spoils none (Paige 1980), and only three vectors are stored.

    Args:
        gradient: the gradient of the loss, a tree like ``params``.
        params: where the Hessian is taken.
        key: decides the random start vector.
        iterations: how many Hessian-vector products are computed.

    Returns:
        The eigenvalue, and a bound on its distance from a true eigenvalue.

    References:
        Lanczos, An iteration method for the solution of the eigenvalue problem, 1950. Parlett, The
        Symmetric Eigenvalue Problem, 1998, §13.2 (the bound |β_k s_k|).
    """

    def iterate(state: _LanczosState, _: None) -> tuple[_LanczosState, tuple[Array, Array]]:
        _, image = jax.jvp(gradient, (params,), (state.vector,))
        alpha = _inner_product(state.vector, image)

        def remove_projections(
            image: Array,
            vector: Array,
            previous: Array,
        ) -> Array:
            return image - alpha * vector - state.beta * previous

        rest = jax.tree.map(remove_projections, image, state.vector, state.previous)
        length = tree_euclidean(rest)
        following = _LanczosState(
            previous=state.vector,
            vector=_scale_tree(rest, 1 / nonzero_or_one(length)),
            beta=length,
        )
        return following, (alpha, length)

    start = _random_unit_vector(params, key)
    zeros = jax.tree.map(jnp.zeros_like, start)
    state = _LanczosState(
        previous=zeros,
        vector=start,
        beta=jnp.zeros_like(_inner_product(start, start)),
    )
    _, (alphas, betas) = lax.scan(iterate, state, length=iterations)
    values, vectors = jnp.linalg.eigh(_tridiagonal(alphas, betas[:-1]))
    largest = values[-1]
    bound = jnp.abs(betas[-1] * vectors[-1, -1])
    return largest, bound


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a Hessian by Lanczos' method, and the directions of two of them.

    Attributes:
        values: m eigenvalues, or approximations of them, in ascending order [m].
        weights: the share of the P eigenvalues that each of them stands for [m]; their sum is 1.
        least: the unit vector of the least value, a tree like the parameters.
        greatest: the unit vector of the greatest value.
    """

    values: Array
    weights: Array
    least: Any
    greatest: Any


def hessian_spectrum(
    gradient: Callable[[Any], Any],
    params: Any,
    key: Array,
    iterations: int,
) -> Spectrum:
    """Eigenvalues of the Hessian, by Lanczos' method with complete orthogonalisation.

    With as many iterations as parameters they are all P eigenvalues, each of weight 1/P. With fewer
    they are the nodes of a Gaussian quadrature: the sum of the weights of those below x estimates
    the share of the P eigenvalues below x. Where the vectors span an invariant subspace, the method
    goes on with a random vector orthogonal to it. Cost: ``iterations`` Hessian-vector products,
    8·m²·P multiplications, and m·P numbers of memory.

    Args:
        gradient: the gradient of the loss, a tree like ``params``.
        params: where the Hessian is taken: P numbers.
        key: decides the random vectors.
        iterations: m, how many Hessian-vector products are computed; at most P.

    References:
        Lanczos, An iteration method for the solution of the eigenvalue problem, 1950. Golub,
        Welsch, Calculation of Gauss quadrature rules, 1969. Ghorbani, Krishnan, Xiao, An
        investigation into neural net optimization via Hessian eigenvalue density, 2019.
    """
    flat, restore = ravel_pytree(params)
    draws = jax.random.normal(key, (iterations + 1, flat.size), flat.dtype)
    first = draws[0] / jnp.linalg.norm(draws[0])
    vectors = jnp.zeros_like(draws).at[0].set(first)
    tiny = 100 * jnp.finfo(flat.dtype).eps

    def product(vector: Array) -> Array:
        _, image = jax.jvp(gradient, (params,), (restore(vector),))
        return ravel_pytree(image)[0]

    def remove_projections(vector: Array, others: Array) -> Array:
        for _ in range(2):  # the second time removes the rounding errors of the first
            vector = vector - (others @ vector) @ others
        return vector

    def iterate(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        vectors, tridiagonal = carry
        vector = vectors[index]
        image = product(vector)
        alpha = jnp.vdot(vector, image)
        rest = remove_projections(image, vectors)
        length = jnp.linalg.norm(rest)
        largest_entry = jnp.max(jnp.abs(tridiagonal), initial=jnp.abs(alpha))
        is_exhausted = length <= tiny * largest_entry
        fresh = remove_projections(draws[index + 1], vectors)
        following = jnp.where(is_exhausted, fresh, rest)
        norm = jnp.linalg.norm(following)
        vectors = vectors.at[index + 1].set(following / nonzero_or_one(norm))
        beta = jnp.where(is_exhausted, 0, length)
        tridiagonal = tridiagonal.at[index].set(jnp.stack([alpha, beta]))
        return vectors, tridiagonal

    empty = jnp.zeros((iterations, 2), flat.dtype)
    vectors, tridiagonal = lax.fori_loop(0, iterations, iterate, (vectors, empty))
    alphas = tridiagonal[:, 0]
    betas = tridiagonal[:-1, 1]
    values, eigenvectors = jnp.linalg.eigh(_tridiagonal(alphas, betas))
    weights = eigenvectors[0] ** 2
    if iterations == flat.size:
        weights = jnp.full_like(weights, 1 / flat.size)
    basis = vectors[:-1]
    return Spectrum(
        values=values,
        weights=weights,
        least=restore(eigenvectors[:, 0] @ basis),
        greatest=restore(eigenvectors[:, -1] @ basis),
    )


def _tridiagonal(diagonal: Array, off_diagonal: Array) -> Array:
    """A symmetric matrix [m, m] from its diagonal [m] and the entries next to it [m − 1]."""
    matrix = jnp.diag(diagonal)
    matrix = matrix + jnp.diag(off_diagonal, 1)
    return matrix + jnp.diag(off_diagonal, -1)


def _random_unit_vector(params: Any, key: Array) -> Any:
    """A tree like ``params`` whose leaves are random and whose norm is 1."""
    leaves = jax.tree.leaves(params)
    draws = []
    for n, leaf in enumerate(leaves):
        leaf_key = jax.random.fold_in(key, n)
        draws.append(jax.random.normal(leaf_key, leaf.shape))
    typed = []
    for draw, leaf in zip(draws, leaves, strict=True):
        typed.append(draw.astype(leaf.dtype))
    vector = jax.tree.unflatten(jax.tree.structure(params), typed)
    return _scale_tree(vector, 1 / tree_euclidean(vector))


def _inner_product(a: Any, b: Any) -> Scalar:
    """⟨a, b⟩ over all leaves, in float32 or wider."""

    def leaf_product(x: Array, y: Array) -> Array:
        return jnp.vdot(_widen(x), _widen(y))

    products = jax.tree.map(leaf_product, a, b)
    return jax.tree.reduce(jnp.add, products)


def _widen(x: Array) -> Array:
    return x.astype(accumulator(x.dtype))


def _scale_tree(tree: Any, factor: Array) -> Any:
    def scale(leaf: Array) -> Array:
        return (leaf * factor).astype(leaf.dtype)

    return jax.tree.map(scale, tree)


def isometry(
    function: Callable[[Array], Array], at: Float[Array, " D"]
) -> tuple[Float[Array, " D"], Scalar]:
    """Measures how far a function from R^D to R^D is from an isometry and from the identity.

    Returns:
        The singular values of the Jacobian J at the point ``at``, the largest first, and max |J −
        I|.
    """
    jacobian = jax.jacrev(function)(at)
    identity = jnp.eye(len(at), dtype=jacobian.dtype)
    distance = jnp.max(jnp.abs(jacobian - identity))
    return jnp.linalg.svd(jacobian, compute_uv=False), distance


def mean_cosine(gradients: Float[Array, "B ..."]) -> Scalar:
    """The mean cosine between the gradients of two different examples; zero gradients do not count.

    With the sum s of the m unit vectors it is (‖s‖² − m)/(m(m−1)). It is NaN for fewer than two.
    """
    rows = gradients.reshape(len(gradients), -1)
    rows = rows.astype(accumulator(gradients.dtype))
    lengths = tree_euclidean(rows, batch_axes=1)
    units = rows / nonzero_or_one(lengths)[:, None]
    m = jnp.sum(lengths > 0)
    total = jnp.sum(units, axis=0)
    products = jnp.sum(total**2) - m
    pairs = jnp.where(m > 1, m * (m - 1), jnp.nan)
    return products / pairs


def difference_errors(
    function: Callable[[Array], Array],
    at: Float[Array, "..."],
    direction: Float[Array, "..."],
    steps: Float[Array, " H"],
) -> dict[str, Float[Array, " H"]]:
    """Relative errors of numerical derivatives, compared with automatic differentiation.

    Args:
        function: a scalar function.
        at: the point x.
        direction: the direction v of the derivative.
        steps: the steps h.

    Returns:
        For each step the errors of ``forward`` (f(x+hv) − f(x))/h and ``central`` (f(x+hv) −
        f(x−hv))/2h differences (Baydin et al. 2018, §2.1).
    """
    value, exact = jax.jvp(function, (at,), (direction,))

    def evaluate(sign: int) -> Array:
        return lax.map(lambda h: function(at + h * direction), sign * steps)

    def relative_error(derivative: Array) -> Array:
        return jnp.abs(derivative - exact) / jnp.abs(exact)

    plus = evaluate(1)
    minus = evaluate(-1)
    return {
        "forward": relative_error((plus - value) / steps),
        "central": relative_error((plus - minus) / (2 * steps)),
    }


def mode_error(
    function: Callable[[Array], Array],
    at: Float[Array, "..."],
    direction: Float[Array, "..."],
) -> Scalar:
    """The relative difference between forward-mode and reverse-mode automatic differentiation.

    Both are exact except for rounding, so this is the rounding error of automatic differentiation.

    Args:
        function: a scalar function.
        at: where the derivative is taken.
        direction: the direction of the derivative.
    """
    _, forward = jax.jvp(function, (at,), (direction,))
    reverse = _inner_product(jax.grad(function)(at), direction)
    return jnp.abs(reverse - forward) / jnp.abs(forward)
