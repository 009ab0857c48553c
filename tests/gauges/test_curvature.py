"""Sharpness, Jacobian spectra, correlations and difference errors against linear algebra."""

import itertools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from pytest import approx

from research.gauges.curvature import difference_errors, isometry, mean_cosine, sharpness
from research.training.precision import precision_context

KEY = 0


@pytest.fixture
def generator():
    return np.random.default_rng(0)


@pytest.fixture
def in_float64():
    with precision_context("float64"):
        yield


def gradient_of_quadratic(eigenvalues, generator):
    """The gradient of ½ xᵀ H x for H with these eigenvalues, and a tree x of two arrays."""
    size = len(eigenvalues)
    basis = np.linalg.qr(generator.standard_normal((size, size)))[0]
    hessian = jnp.asarray(basis * np.asarray(eigenvalues) @ basis.T)

    def loss(tree):
        x = jnp.concatenate([tree["a"], tree["b"].ravel()])
        return 0.5 * x @ hessian @ x

    point = {
        "a": jnp.zeros(size - 4),
        "b": jnp.zeros((2, 2)),
    }
    return jax.grad(loss), point


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(
    "eigenvalues",
    [
        np.arange(1.0, 25),
        [-50.0, *np.linspace(-1, 3, 30)],
        -np.arange(1.0, 9),
    ],
)
def test_sharpness_is_the_largest_eigenvalue_also_if_another_has_a_larger_magnitude(
    eigenvalues, generator
):
    gradient, point = gradient_of_quadratic(eigenvalues, generator)
    measure = jax.jit(lambda at: sharpness(gradient, at, jax.random.key(KEY)))
    value, bound = measure(point)
    assert_allclose(value, np.max(eigenvalues), rtol=1e-6)
    assert bound < 1e-2


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("iterations", [4, 8, 16])
def test_the_bound_holds_before_convergence(iterations, generator):
    eigenvalues = np.linspace(0, 10, 200)
    gradient, point = gradient_of_quadratic(eigenvalues, generator)
    value, bound = sharpness(gradient, point, jax.random.key(KEY), iterations)
    distance = np.min(np.abs(eigenvalues - value))
    assert distance <= bound
    assert value <= 10 + 1e-12


@pytest.mark.slow
@pytest.mark.usefixtures("in_float64")
def test_sharpness_of_a_network_equals_that_of_its_dense_hessian(generator):
    x = jnp.asarray(generator.standard_normal((20, 5)))
    y = jnp.asarray(generator.standard_normal((20, 3)))
    weights = {
        "v": jnp.asarray(generator.standard_normal((5, 8))),
        "w": jnp.asarray(generator.standard_normal((8, 3))),
    }

    def loss(weights):
        errors = jnp.tanh(x @ weights["v"]) @ weights["w"] - y
        return 0.5 * jnp.mean(jnp.sum(errors**2, axis=1))

    flat, restore = jax.flatten_util.ravel_pytree(weights)
    hessian = jax.hessian(lambda w: loss(restore(w)))(flat)
    value, _ = sharpness(jax.grad(loss), weights, jax.random.key(KEY))
    assert_allclose(value, np.linalg.eigvalsh(hessian)[-1], rtol=1e-6)


def test_sharpness_is_zero_where_the_loss_is_flat():
    gradient = jax.grad(lambda w: 0 * jnp.sum(w))
    value, bound = sharpness(gradient, jnp.ones(5), jax.random.key(KEY))
    assert value == 0
    assert bound == 0


@pytest.mark.usefixtures("in_float64")
def test_singular_values_of_a_linear_map(generator):
    matrix = generator.standard_normal((6, 6))
    values, distance = isometry(lambda h: jnp.asarray(matrix) @ h, jnp.zeros(6))
    expected_values = np.linalg.svd(matrix, compute_uv=False)
    expected_distance = np.abs(matrix - np.eye(6)).max()
    assert_allclose(values, expected_values, rtol=1e-12)
    assert_allclose(distance, expected_distance, rtol=1e-12)


@pytest.mark.usefixtures("in_float64")
def test_a_reversal_is_an_isometry_but_not_the_identity():
    values, distance = isometry(lambda h: h[::-1], jnp.zeros(6))
    assert np.array_equal(values, np.ones(6))
    assert distance == 1


def cosine(a, b):
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / lengths


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_mean_cosine_is_the_mean_over_all_pairs_whatever_their_lengths(size, generator):
    directions = generator.standard_normal((7, 3, 4)).astype("float32")
    vectors = directions.reshape(7, -1).astype(float)
    cosines = []
    for a, b in itertools.combinations(vectors, 2):
        cosines.append(cosine(a, b))
    lengths = size * 10.0 ** np.arange(-3, 4)
    gradients = directions * lengths[:, None, None]
    no_gradient = np.zeros((2, 3, 4))
    examples = np.concatenate([gradients, no_gradient]).astype("float32")
    measured = mean_cosine(jnp.asarray(examples))
    assert_allclose(measured, np.mean(cosines), rtol=2e-5)
    only_one_gradient = jnp.asarray(examples[6:])
    assert np.isnan(mean_cosine(only_one_gradient))


@pytest.mark.usefixtures("in_float64")
def test_difference_errors_fall_with_the_step_and_rise_again():
    """Until rounding divides by h, relative errors of exp are h/2 (forward) and h²/6 (central).

    The best steps are √ε and ∛ε.
    """
    steps = 10.0 ** -np.arange(1.0, 13)
    errors = difference_errors(
        lambda x: jnp.exp(x[0]),
        at=jnp.zeros(1),
        direction=jnp.ones(1),
        steps=jnp.asarray(steps),
    )
    forward = np.asarray(errors["forward"])
    central = np.asarray(errors["central"])
    assert_allclose(forward[1:6], steps[1:6] / 2, rtol=0.01)
    assert_allclose(central[1:3], steps[1:3] ** 2 / 6, rtol=0.01)
    assert steps[np.argmin(forward)] == approx(1e-8)
    assert forward.min() < 1e-7
    assert steps[np.argmin(central)] == approx(1e-5)
    assert central.min() < 1e-9
