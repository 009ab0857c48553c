"""Initial weights and biases: their variance, bounds and orthogonality; their scale is traced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

from research.config.fields import traced_names
from research.config.options import InitKind
from research.config.schema import make_option
from research.models.conv import Conv
from research.models.init import make_bias_initializer, make_weight_initializer
from research.models.stack import Stack
from research.theory.variance import theoretical_variance
from research.training.layer_params import kernels_of
from research.training.precision import precision_context

from ..builders import make_architecture, make_hparams

SCHEMES = [kind.name for kind in InitKind]
SCALED_SCHEMES = [name for name in SCHEMES if name != "zeros"]
FANS = [(200, 300), (300, 200)]  # inputs and outputs of a layer

every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
both_fans = pytest.mark.parametrize("fans", FANS, ids=str)


def make_init(scheme, **numbers):
    """An initialisation; numbers that it does not have are left out."""
    kept = {}
    for name in traced_names(make_option("init", scheme)):
        if name in numbers:
            kept[name] = numbers[name]
    return make_option("init", scheme, **kept)


def draw(scheme, shape: Any = (200, 300), dtype: Any = "float32", factor: Any = 1.0, **numbers):
    """Weights of one seed."""
    init = make_init(scheme, **numbers)
    key = jax.random.key(3)
    return make_weight_initializer(init, factor)(key, shape, jnp.dtype(dtype))


@both_fans
@every_scheme
def test_variance_is_the_theoretical_one(scheme, fans):
    numbers = {"gain": 1.3, "sigma_w": 0.8}
    weights = np.asarray(draw(scheme, fans, **numbers), np.float64)
    expected = theoretical_variance(make_init(scheme, **numbers), *fans)
    # The mean of n squares has a relative standard deviation of at most √(2/n) = 0.006 here.
    five_deviations = 5 * np.sqrt(2 / weights.size)
    tolerance = 1e-5 if "orthogonal" in scheme else five_deviations
    assert_allclose(fans[0] * np.mean(weights**2), expected, rtol=tolerance)
    assert abs(np.mean(weights)) <= 5 * np.std(weights) / np.sqrt(weights.size)


PUBLISHED_VARIANCES = {
    "he": 2.0,
    "lecun": 1.0,
    "glorot": 1.0,
    "glorot_uniform": 1.0,
    "old_uniform": 1 / 3,
    "gaussian": 1.0,
}


@pytest.mark.parametrize("scheme, variance", PUBLISHED_VARIANCES.items())
def test_variances_of_square_layers_as_published(scheme, variance):
    usual = make_option("init", scheme)
    scaled = make_option("init", scheme, gain=3.0)
    assert_allclose(theoretical_variance(usual, 64, 64), variance)
    assert_allclose(theoretical_variance(scaled, 64, 64), 9 * variance)


def test_sigma_w_scales_the_variance_of_gaussian_weights():
    init = make_option("init", "gaussian", sigma_w=2.0)
    assert_allclose(theoretical_variance(init, 64, 64), 4)


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "gaussian"])
def test_only_gaussian_weights_have_sigma_w(scheme):
    assert not hasattr(make_option("init", scheme), "sigma_w")


def test_glorot_divides_by_the_mean_of_both_fans():
    """Var W = 2/(fan_in + fan_out): Glorot & Bengio 2010, eq. 12."""
    init = make_option("init", "glorot")
    assert_allclose(theoretical_variance(init, 30, 10), 30 * 2 / 40)


def assert_orthogonal(matrix, gain, atol):
    inputs, outputs = matrix.shape
    gram = matrix.T @ matrix if inputs >= outputs else matrix @ matrix.T
    assert_allclose(gram, gain**2 * np.eye(len(gram)), atol=atol)


@both_fans
@pytest.mark.parametrize("scheme", ["orthogonal", "delta_orthogonal"])
def test_orthogonal_is_orthogonal(scheme, fans):
    weights = np.asarray(draw(scheme, fans, gain=1.5), np.float64)
    assert_orthogonal(weights, gain=1.5, atol=1e-5)


def test_a_schur_matrix_has_one_eigenvalue_and_is_not_normal():
    with precision_context("float64"):
        numbers = {"spectral_radius": 0.9, "nonnormality": 0.5}
        matrix = np.asarray(draw("schur", (12, 12), dtype="float64", **numbers))
        normal = np.asarray(draw("schur", (12, 12), dtype="float64", spectral_radius=0.9))
    # Equal eigenvalues are found to about the n-th root of the rounding error, their mean exactly.
    eigenvalues = np.linalg.eigvals(matrix)
    assert_allclose(np.mean(eigenvalues), 0.9, rtol=1e-9)
    assert_allclose(np.linalg.slogdet(matrix).logabsdet, 12 * np.log(0.9), rtol=1e-9)
    assert np.linalg.norm(matrix @ matrix.T - matrix.T @ matrix) > 0.1
    assert_allclose(normal, 0.9 * np.eye(12), atol=1e-12)


def test_a_schur_matrix_has_its_theoretical_variance():
    numbers = {"spectral_radius": 0.9, "nonnormality": 1.5, "gain": 2.0}
    weights = np.asarray(draw("schur", (300, 300), **numbers), np.float64)
    expected = theoretical_variance(make_init("schur", **numbers), 300, 300)
    assert_allclose(300 * np.mean(weights**2), expected, rtol=0.03)


BOUNDS = {
    "old_uniform": 1 / np.sqrt(200),
    "glorot_uniform": np.sqrt(6 / 500),
}


@pytest.mark.parametrize("scheme, bound", BOUNDS.items())
def test_uniform_schemes_fill_their_interval(scheme, bound):
    largest = np.max(np.abs(draw(scheme)))
    assert 0.999 * bound < largest <= bound * (1 + 1e-6)


@pytest.mark.parametrize("scheme", SCALED_SCHEMES)
def test_the_gain_multiplies_one_draw(scheme):
    once = draw(scheme, gain=1.0)
    assert_array_equal(draw(scheme, gain=4.0), 4 * once)
    assert_array_equal(draw(scheme, gain=0.0), 0)


def test_sigma_w_multiplies_one_draw():
    once = draw("gaussian", sigma_w=1.0)
    assert_array_equal(draw("gaussian", sigma_w=4.0), 4 * once)


@pytest.mark.parametrize("traced", [True, pytest.param(False, marks=pytest.mark.slow)])
@every_scheme
def test_the_factor_multiplies_the_same_draw(scheme, traced):
    def draw_with_factor(factor):
        return draw(scheme, factor=factor)

    if traced:
        draw_with_factor = jax.jit(draw_with_factor)
    assert_allclose(draw_with_factor(0.25), 0.25 * draw(scheme), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@every_scheme
def test_narrow_formats_round_the_float32_draw(scheme, dtype):
    expected = draw(scheme).astype(dtype)
    assert_array_equal(draw(scheme, dtype=dtype), expected)


def test_zeros_are_zeros():
    init = make_option("init", "zeros")
    assert_array_equal(draw("zeros", (3, 3, 4, 6)), 0)
    assert theoretical_variance(init, 30, 10) == 0
    assert not hasattr(init, "gain")


KERNELS = [
    (3, 3, 4, 6),
    (5, 5, 6, 4),
    (1, 1, 5, 5),
    (3, 3, 6, 6),
]
every_kernel = pytest.mark.parametrize("shape", KERNELS, ids=str)


@every_kernel
def test_delta_orthogonal_has_one_matrix_at_the_centre(shape):
    """Xiao et al. 2018, algorithm 1."""
    with precision_context("float64"):
        kernel = np.array(draw("delta_orthogonal", shape, dtype="float64", gain=1.5))
    row = shape[0] // 2
    column = shape[1] // 2
    centre = kernel[row, column].copy()
    kernel[row, column] = 0
    assert_array_equal(kernel, 0)
    assert_orthogonal(centre, gain=1.5, atol=1e-14)


@every_kernel
def test_delta_orthogonal_has_its_theoretical_variance(shape):
    """Fans count the kernel's pixels."""
    weights = np.asarray(draw("delta_orthogonal", shape, gain=1.5), np.float64)
    pixels = shape[0] * shape[1]
    fan_in = pixels * shape[2]
    fan_out = pixels * shape[3]
    init = make_option("init", "delta_orthogonal", gain=1.5)
    expected = theoretical_variance(init, fan_in, fan_out)
    assert_allclose(fan_in * np.mean(weights**2), expected, rtol=1e-6)


def norms(images):
    """The norm of each image."""
    return np.linalg.norm(np.asarray(images).reshape(len(images), -1), axis=1)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("outputs", [4, 7])
def test_a_delta_orthogonal_circular_convolution_keeps_norms(outputs):
    """Of every image and every gradient: depth 10,000 was trained with it (ibid., §1)."""
    conv = Conv(
        4,
        outputs,
        padding="circular",
        init=make_option("init", "delta_orthogonal"),
        bias=False,
        dtype=jnp.dtype("float64"),
        param_dtype=jnp.dtype("float64"),
        rngs=nnx.Rngs(0),
    )
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.standard_normal((3, 6, 5, 4)))
    out, pull_back = jax.vjp(conv, x)
    (gradient,) = pull_back(conv(x))
    assert_allclose(norms(out), norms(x), rtol=1e-12)
    assert_allclose(norms(gradient), norms(x), rtol=1e-12)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_biases_are_normal_with_sigma_b(sigma):
    init = make_option("init", "he", sigma_b=sigma)
    bias = make_bias_initializer(init)(jax.random.key(0), (20000,))
    five_deviations = 5 * np.sqrt(1 / (2 * bias.size))
    assert_allclose(np.std(bias), sigma, rtol=five_deviations)


def test_biases_have_the_mean_and_the_deviation_that_are_asked_for():
    init = make_option("init", "he", sigma_b=0.5, bias_mean=-2.0)
    biases = make_bias_initializer(init)(jax.random.key(0), (10_000,), jnp.dtype("float32"))
    assert_allclose(np.mean(biases), -2, atol=5 * 0.5 / 100)
    assert_allclose(np.std(biases), 0.5, rtol=0.05)


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_the_weights_of_one_layer_are_multiplied(kind):
    network = {"kind": kind, "depth": 2, "width": 4}
    if kind == "transformer":
        network |= {"heads": 2, "shape": (4, 4, 1)}
    layers = 2 if kind == "mlp" else 4
    usual = kernels_by_layer(network, {})
    for chosen in (0, layers - 1):
        changed = kernels_by_layer(network, {"init.layer": chosen, "init.layer_gain": 0.5})
        for layer in range(layers):
            factor = 0.5 if layer == chosen else 1
            for before, after in zip(usual[layer], changed[layer], strict=True):
                assert_array_equal(after, factor * before)


def kernels_by_layer(network, settings):
    """The kernels of each layer's branch, in forward order."""
    traced = dict(settings)
    arch = make_architecture(**network, layer=traced.pop("init.layer", None))
    hp = make_hparams(arch, traced, runs=None)
    params = nnx.state(Stack(arch, hp, rngs=nnx.Rngs(0)), nnx.Param)
    by_layer = []
    for stage in kernels_of(arch, params):
        for block in range(arch.model.depth):
            for kernels in stage:
                by_layer.append([np.asarray(kernel)[block] for kernel in kernels])
    return by_layer


def parameters(**changes):
    """The initial parameters of a small network, as nested dictionaries."""
    arch = make_architecture(**changes)
    network = Stack(arch, make_hparams(arch, runs=None), rngs=nnx.Rngs(0))
    return nnx.to_pure_dict(nnx.state(network, nnx.Param))


def test_what_no_scheme_draws_is_as_the_guide_says():
    width = 256
    gated = parameters(width=width, skip="highway", init="zeros")
    gate = gated["stages"][0]["skip"]["gate"]["kernel"]
    assert np.std(gate) == pytest.approx(0.1 / width**0.5, rel=0.05)
    assert np.all(gated["embed"]["kernel"] == 0) and np.all(gated["head"]["kernel"] == 0)

    reader = parameters(
        kind="transformer", width=width, skip="identity", shape=(64,), vocabulary=99, init="zeros"
    )
    vectors = reader["embed"]["table"]["vectors"]
    assert np.std(vectors) == pytest.approx(width**-0.5, rel=0.05)
    assert np.std(reader["embed"]["positions"]) == pytest.approx(0.02, rel=0.05)


def test_fixup_starts_with_zero_branches_and_a_zero_head():
    params = parameters(skip="fixup", branch_weights=2, depth=2)
    weights = params["stages"][0]["branch"]["weights"]
    assert np.all(weights[1]["kernel"] == 0) and np.any(weights[0]["kernel"] != 0)
    assert "bias" not in weights[0] and "bias" not in weights[1]
    assert np.all(params["head"]["kernel"] == 0)
