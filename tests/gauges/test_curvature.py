"""Sharpness, Jacobian spectra, correlations and difference errors against dense linear algebra in float64."""

import itertools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from research.gauges.curvature import difference_errors, isometry, mean_cosine, sharpness
from research.training.precision import scope

GENERATOR = np.random.default_rng(0)
KEY = 0


def quadratic(eigenvalues):
    """½ xᵀ H x in two pieces, H with these eigenvalues."""
    basis = np.linalg.qr(GENERATOR.standard_normal((len(eigenvalues),) * 2))[0]
    hessian = jnp.asarray(basis * np.asarray(eigenvalues) @ basis.T)

    def join(tree):
        return jnp.concatenate([tree["a"], tree["b"].ravel()])

    gradient = jax.grad(lambda tree: 0.5 * join(tree) @ hessian @ join(tree))
    at = {"a": jnp.zeros(len(eigenvalues) - 4), "b": jnp.zeros((2, 2))}
    return gradient, at


@pytest.mark.parametrize(
    "eigenvalues", [np.arange(1.0, 25), [-50.0, *np.linspace(-1, 3, 30)], -np.arange(1.0, 9)]
)
def test_sharpness_is_the_greatest_eigenvalue_not_the_one_of_greatest_magnitude(eigenvalues):
    with scope("float64"):
        gradient, at = quadratic(eigenvalues)
        value, bound = jax.jit(lambda at: sharpness(gradient, at, jax.random.key(KEY)))(at)
        np.testing.assert_allclose(value, np.max(eigenvalues), rtol=1e-6)
        assert bound < 1e-2


@pytest.mark.parametrize("iterations", [4, 8, 16])
def test_the_bound_holds_before_convergence(iterations):
    with scope("float64"):
        eigenvalues = np.linspace(0, 10, 200)
        gradient, at = quadratic(eigenvalues)
        value, bound = sharpness(gradient, at, jax.random.key(KEY), iterations)
        assert np.min(np.abs(eigenvalues - value)) <= bound and value <= 10 + 1e-12


def test_sharpness_of_a_network_equals_that_of_its_dense_hessian():
    with scope("float64"):
        x, y = (jnp.asarray(GENERATOR.standard_normal(shape)) for shape in ((20, 5), (20, 3)))
        weights = {
            "v": jnp.asarray(GENERATOR.standard_normal((5, 8))),
            "w": jnp.asarray(GENERATOR.standard_normal((8, 3))),
        }

        def loss(w):
            return 0.5 * jnp.mean(jnp.sum((jnp.tanh(x @ w["v"]) @ w["w"] - y) ** 2, axis=1))

        flat, restore = jax.flatten_util.ravel_pytree(weights)
        expected = np.linalg.eigvalsh(jax.hessian(lambda w: loss(restore(w)))(flat))[-1]
        value, _ = sharpness(jax.grad(loss), weights, jax.random.key(KEY))
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_sharpness_is_zero_where_the_loss_is_flat():
    value, bound = sharpness(jax.grad(lambda w: 0 * jnp.sum(w)), jnp.ones(5), jax.random.key(KEY))
    assert value == 0 and bound == 0


def test_singular_values_of_a_linear_map():
    with scope("float64"):
        matrix = GENERATOR.standard_normal((6, 6))
        values, distance = isometry(lambda h: jnp.asarray(matrix) @ h, jnp.zeros(6))
        np.testing.assert_allclose(values, np.linalg.svd(matrix, compute_uv=False), rtol=1e-12)
        np.testing.assert_allclose(distance, np.abs(matrix - np.eye(6)).max(), rtol=1e-12)
        turned, far = isometry(
            lambda h: h[::-1], jnp.zeros(6)
        )  # an isometry, and yet not the identity
        assert np.array_equal(turned, np.ones(6)) and far == 1


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_mean_cosine_over_all_pairs(size):
    """Whatever the lengths; an example without a gradient is no example."""
    rows = GENERATOR.standard_normal((7, 3, 4)).astype("float32")
    flat = rows.reshape(7, -1).astype(float)

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    expected = np.mean([cosine(*pair) for pair in itertools.combinations(flat, 2)])
    lengths = size * 10.0 ** np.arange(-3, 4)[:, None, None]
    rows = np.concatenate([rows * lengths, np.zeros((2, 3, 4))]).astype("float32")
    np.testing.assert_allclose(mean_cosine(jnp.asarray(rows)), expected, rtol=2e-5)
    assert np.isnan(mean_cosine(jnp.asarray(rows[6:])))


def test_difference_errors_fall_with_the_step_and_rise_again():
    """Forward h/2·|f''|, central h²/6·|f'''| over |f'| of f = exp, until rounding divides by h (papers: √ε and ∛ε)."""
    with scope("float64"):
        steps = 10.0 ** -np.arange(1.0, 13)
        errors = difference_errors(
            lambda x: jnp.exp(x[0]), jnp.zeros(1), jnp.ones(1), jnp.asarray(steps)
        )
        forward, central = (np.asarray(errors[name]) for name in ("forward", "central"))
        np.testing.assert_allclose(forward[1:6], steps[1:6] / 2, rtol=0.01)
        np.testing.assert_allclose(central[1:3], steps[1:3] ** 2 / 6, rtol=0.01)
        assert steps[np.argmin(forward)] == pytest.approx(1e-8) and forward.min() < 1e-7
        assert steps[np.argmin(central)] == pytest.approx(1e-5) and central.min() < 1e-9
