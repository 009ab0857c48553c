"""Initial weights and biases: their variance, bounds and orthogonality, and that their scale is an argument."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.config import schema as config
from research.models.conv import Conv
from research.models.init import bias_initializer, theoretical_variance, weight_initializer
from research.training.precision import scope

SCHEMES = [option.name for option in config.InitKind]
FANS = [(200, 300), (300, 200)]
NUMBERS = {"gain": 1.3, "sigma_w": 0.8}


@pytest.fixture
def draw(make_numbers):
    """Weights of one shape, of one seed, by scheme, numbers and format."""

    def weights(scheme, shape=(200, 300), dtype="float32", factor=1.0, **numbers):
        wide = jnp.promote_types(dtype, "float32")
        hp = make_numbers(
            {f"init.{name}": value for name, value in numbers.items()}, runs=None, dtype=wide
        )
        return weight_initializer(scheme, hp, factor)(jax.random.key(3), shape, jnp.dtype(dtype))

    return weights


@pytest.mark.parametrize("fans", FANS, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_variance_is_the_theoretical_one(draw, scheme, fans):
    weights = np.asarray(draw(scheme, fans, **NUMBERS), np.float64)
    # The mean of n squares has a relative standard deviation of at most √(2/n) = 0.006 here: five of them.
    tolerance = 1e-5 if "orthogonal" in scheme else 5 * np.sqrt(2 / weights.size)
    np.testing.assert_allclose(
        fans[0] * np.mean(weights**2),
        theoretical_variance(scheme, *fans, **NUMBERS),
        rtol=tolerance,
    )
    assert abs(np.mean(weights)) <= 5 * np.std(weights) / np.sqrt(weights.size)


@pytest.mark.parametrize(
    "scheme, variance",
    [
        ("he", 2.0),
        ("lecun", 1.0),
        ("glorot", 1.0),
        ("glorot_uniform", 1.0),
        ("old_uniform", 1 / 3),
        ("gaussian", 1.0),
    ],
)
def test_variances_of_square_layers_as_published(scheme, variance):
    np.testing.assert_allclose(theoretical_variance(scheme, 64, 64), variance)
    np.testing.assert_allclose(theoretical_variance(scheme, 64, 64, gain=3.0), 9 * variance)
    # Only gaussian knows σ_w.
    np.testing.assert_allclose(
        theoretical_variance(scheme, 64, 64, sigma_w=2.0),
        variance * (4 if scheme == "gaussian" else 1),
    )


def test_glorot_is_for_the_mean_of_both_fans():
    """Var W = 2/(fan_in + fan_out): Glorot & Bengio 2010, eq. 12."""
    np.testing.assert_allclose(theoretical_variance("glorot", 30, 10), 30 * 2 / 40)


@pytest.mark.parametrize("fans", FANS, ids=str)
@pytest.mark.parametrize("scheme", ["orthogonal", "delta_orthogonal"])
def test_orthogonal_is_orthogonal(draw, scheme, fans):
    weights = np.asarray(draw(scheme, fans, gain=1.5), np.float64)
    gram = weights.T @ weights if fans[0] >= fans[1] else weights @ weights.T
    np.testing.assert_allclose(gram, 1.5**2 * np.eye(min(fans)), atol=1e-5)


@pytest.mark.parametrize(
    "scheme, bound", [("old_uniform", 1 / np.sqrt(200)), ("glorot_uniform", np.sqrt(6 / 500))]
)
def test_uniform_schemes_fill_their_interval(draw, scheme, bound):
    greatest = np.max(np.abs(draw(scheme)))
    assert 0.999 * bound < greatest <= bound * (1 + 1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scale_multiplies_one_draw(draw, scheme):
    np.testing.assert_array_equal(draw(scheme, gain=4.0), 4 * draw(scheme, gain=1.0))
    np.testing.assert_array_equal(draw(scheme, gain=0.0), 0)
    factor = 4 if scheme == "gaussian" else 1
    np.testing.assert_array_equal(draw(scheme, sigma_w=4.0), factor * draw(scheme, sigma_w=1.0))


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_factor_multiplies_the_same_draw(draw, scheme, traced):
    drawn = (
        jax.jit(lambda factor: draw(scheme, factor=factor))(0.25)
        if traced
        else draw(scheme, factor=0.25)
    )
    np.testing.assert_allclose(drawn, 0.25 * draw(scheme), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_narrow_formats_round_the_float32_draw(draw, scheme, dtype):
    np.testing.assert_array_equal(draw(scheme, dtype=dtype), draw(scheme).astype(dtype))


def test_zeros_are_zeros(draw):
    np.testing.assert_array_equal(draw("zeros", (3, 3, 4, 6), gain=2.0), 0)
    assert theoretical_variance("zeros", 30, 10, gain=2.0) == 0


KERNELS = [(3, 3, 4, 6), (5, 5, 6, 4), (1, 1, 5, 5), (3, 3, 6, 6)]


@pytest.mark.parametrize("shape", KERNELS, ids=str)
def test_delta_orthogonal_has_one_matrix_at_the_centre(draw, shape):
    """Xiao et al. 2018, algorithm 1."""
    with scope("float64"):
        kernel = np.array(draw("delta_orthogonal", shape, dtype="float64", gain=1.5))
    centre = kernel[shape[0] // 2, shape[1] // 2].copy()
    kernel[shape[0] // 2, shape[1] // 2] = 0
    np.testing.assert_array_equal(kernel, 0)
    gram = centre.T @ centre if shape[2] >= shape[3] else centre @ centre.T
    np.testing.assert_allclose(gram, 1.5**2 * np.eye(min(shape[2:])), atol=1e-14)


@pytest.mark.parametrize("shape", KERNELS, ids=str)
def test_delta_orthogonal_has_its_theoretical_variance(draw, shape):
    """Fans count the kernel's pixels."""
    weights = np.asarray(draw("delta_orthogonal", shape, gain=1.5), np.float64)
    pixels = shape[0] * shape[1]
    expected = theoretical_variance(
        "delta_orthogonal", pixels * shape[2], pixels * shape[3], gain=1.5
    )
    np.testing.assert_allclose(pixels * shape[2] * np.mean(weights**2), expected, rtol=1e-6)


@pytest.mark.parametrize("outputs", [4, 7])
def test_a_delta_orthogonal_circular_convolution_keeps_norms(make_numbers, outputs):
    """Of every image and, without bias, every gradient: that is what depth 10,000 was trained with (ibid., §1)."""
    formats = {"dtype": jnp.dtype("float64"), "param_dtype": jnp.dtype("float64")}
    with scope("float64"):
        hp = make_numbers(runs=None, dtype="float64")
        generator = np.random.default_rng(0)
        how = {
            "padding": "circular",
            "init": "delta_orthogonal",
            "bias": False,
            "hp": hp,
            **formats,
        }
        conv = Conv(4, outputs, **how, rngs=nnx.Rngs(0))
        x = jnp.asarray(generator.standard_normal((3, 6, 5, 4)))
        out, back = jax.vjp(conv, x)
        np.testing.assert_allclose(norms(out), norms(x), rtol=1e-12)
        np.testing.assert_allclose(norms(back(conv(x))[0]), norms(x), rtol=1e-12)


def norms(images):
    return np.linalg.norm(np.asarray(images).reshape(len(images), -1), axis=1)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_biases_are_normal_with_sigma_b(make_numbers, sigma):
    bias = bias_initializer(make_numbers({"init.sigma_b": sigma}, runs=None))(
        jax.random.key(0), (20000,)
    )
    np.testing.assert_allclose(np.std(bias), sigma, rtol=5 * np.sqrt(1 / (2 * bias.size)))
