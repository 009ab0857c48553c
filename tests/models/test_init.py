"""Initial weights and biases: their variance, their bounds, and that their scale is an argument."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import config
from research.models.init import bias_initializer, theoretical_variance, weight_initializer

SCHEMES = [option.name for option in config.InitKind]
FANS = [(200, 300), (300, 200)]
NUMBERS = {"gain": 1.3, "sigma_w": 0.8}


@pytest.fixture
def draw(make_numbers):
    """Weights of one shape, of one seed, by scheme, numbers and format."""

    def weights(scheme, shape=(200, 300), dtype="float32", **numbers):
        hp = make_numbers({f"init.{name}": value for name, value in numbers.items()}, runs=None)
        return weight_initializer(scheme, hp)(jax.random.key(3), shape, jnp.dtype(dtype))

    return weights


@pytest.mark.parametrize("fans", FANS, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_variance_is_the_theoretical_one(draw, scheme, fans):
    weights = np.asarray(draw(scheme, fans, **NUMBERS), np.float64)
    # The mean of n squares has a relative standard deviation of at most √(2/n) = 0.006 here: five of them.
    tolerance = 1e-5 if scheme == "orthogonal" else 5 * np.sqrt(2 / weights.size)
    np.testing.assert_allclose(
        fans[0] * np.mean(weights**2), theoretical_variance(scheme, *fans, **NUMBERS), rtol=tolerance
    )
    assert abs(np.mean(weights)) < 5 * np.std(weights) / np.sqrt(weights.size)


@pytest.mark.parametrize(
    "scheme, variance",
    [("he", 2.0), ("lecun", 1.0), ("glorot", 1.0), ("glorot_uniform", 1.0), ("old_uniform", 1 / 3), ("gaussian", 1.0)],
)
def test_variances_of_square_layers_as_published(scheme, variance):
    np.testing.assert_allclose(theoretical_variance(scheme, 64, 64), variance)
    np.testing.assert_allclose(theoretical_variance(scheme, 64, 64, gain=3.0), 9 * variance)
    # Only gaussian knows σ_w.
    np.testing.assert_allclose(
        theoretical_variance(scheme, 64, 64, sigma_w=2.0), variance * (4 if scheme == "gaussian" else 1)
    )


def test_glorot_is_for_the_mean_of_both_fans():
    """Var W = 2/(fan_in + fan_out): Glorot & Bengio 2010, eq. 12."""
    np.testing.assert_allclose(theoretical_variance("glorot", 30, 10), 30 * 2 / 40)


@pytest.mark.parametrize("fans", FANS, ids=str)
def test_orthogonal_is_orthogonal(draw, fans):
    weights = np.asarray(draw("orthogonal", fans, gain=1.5), np.float64)
    gram = weights.T @ weights if fans[0] >= fans[1] else weights @ weights.T
    np.testing.assert_allclose(gram, 1.5**2 * np.eye(min(fans)), atol=1e-5)


@pytest.mark.parametrize("scheme, bound", [("old_uniform", 1 / np.sqrt(200)), ("glorot_uniform", np.sqrt(6 / 500))])
def test_uniform_schemes_fill_their_interval(draw, scheme, bound):
    greatest = np.max(np.abs(draw(scheme)))
    assert 0.999 * bound < greatest <= bound * (1 + 1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scale_multiplies_one_draw(draw, scheme):
    np.testing.assert_array_equal(draw(scheme, gain=4.0), 4 * draw(scheme, gain=1.0))
    np.testing.assert_array_equal(draw(scheme, gain=0.0), 0)
    factor = 4 if scheme == "gaussian" else 1
    np.testing.assert_array_equal(draw(scheme, sigma_w=4.0), factor * draw(scheme, sigma_w=1.0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_narrow_formats_round_the_float32_draw(draw, scheme, dtype):
    np.testing.assert_array_equal(draw(scheme, dtype=dtype), draw(scheme).astype(dtype))


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_biases_are_normal_with_sigma_b(make_numbers, sigma):
    bias = bias_initializer(make_numbers({"init.sigma_b": sigma}, runs=None))(jax.random.key(0), (20000,))
    np.testing.assert_allclose(np.std(bias), sigma, rtol=5 * np.sqrt(1 / (2 * bias.size)))
