"""Mean-field theory against published numbers, its laws, and wide random networks in NumPy."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx

from research.theory import mean_field, profiles
from research.theory.mean_field import NONLINEARITIES

pytestmark = pytest.mark.filterwarnings("error")

NAMES = sorted(NONLINEARITIES)
NORMS = [
    ("none", "pre"),
    ("layer", "pre"),
    ("layer", "branch"),
    ("layer", "post"),
    ("layer", "peri"),
]
PLAIN: dict[str, Any] = {"branch_scale": 1.0, "shortcut_scale": 0.0}
RESIDUAL: dict[str, Any] = {"branch_scale": 1.0, "shortcut_scale": 1.0}
DEPTH = 20
DEFAULTS: dict[str, Any] = {
    "sigma_w2": 1.0,
    "sigma_b2": 0.0,
    "depth": DEPTH,
    "q0": 1.0,
    "norm": "none",
    "placement": "pre",
    "batch": 64,
    **PLAIN,
}


def predict(activation: str, **changes: Any) -> np.ndarray | None:
    """The prediction for a plain network without bias and norm, except for the ``changes``."""
    settings = DEFAULTS | changes
    return profiles.predict_profile(activation=activation, **settings)


def predicted(activation: str, **changes: Any) -> np.ndarray:
    """As ``predict``, where there is a prediction."""
    profile = predict(activation, **changes)
    assert profile is not None
    return profile


def layers_above(depth: int) -> np.ndarray:
    return np.arange(depth, -1, -1)


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_network_at_its_fixed_point_changes_by_chi_1_in_each_layer(name):
    sigma_w2 = 0.8 * mean_field.moments(name).sigma_w2
    q0 = mean_field.fixed_point(name, sigma_w2, 0.05)
    profile = predicted(name, sigma_w2=sigma_w2, sigma_b2=0.05, q0=q0)
    log_chi = math.log(mean_field.chi_1(name, sigma_w2, 0.05))
    assert_allclose(profile, layers_above(DEPTH) * log_chi, atol=1e-9)


@pytest.mark.parametrize(
    "sigma_b2, q0",
    [
        (0.0, 1.0),
        (0.3, 1e300),
    ],
)
@pytest.mark.parametrize("depth", [0, 1, 50, 3000])  # at 3000 the variance overflows
@pytest.mark.parametrize("sigma_w2", [1.0, 2.0, 3.0])
def test_plain_relu_changes_by_half_the_weights_variance(sigma_w2, depth, sigma_b2, q0):
    profile = predicted("relu", sigma_w2=sigma_w2, sigma_b2=sigma_b2, depth=depth, q0=q0)
    expected = layers_above(depth) * math.log(sigma_w2 / 2)
    assert profile.dtype == np.float64
    assert_allclose(profile, expected, rtol=1e-12)  # the sum's rounding


@pytest.mark.parametrize(
    "branch_scale, expected",
    [
        (1.0, 69.3),
        (0.5, 22.3),
        (0.1, 0.995),
    ],
)
def test_residual_relu_grows_by_the_square_of_the_branch_scale(branch_scale, expected):
    scales = RESIDUAL | {"branch_scale": branch_scale}
    profile = predicted("relu", sigma_w2=2.0, depth=100, **scales)
    assert profile[0] == approx(expected, rel=2e-3)


@pytest.mark.parametrize("depth", [1, 10, 1000])
def test_residual_relu_scaled_by_depth_grows_towards_e(depth):
    scales = RESIDUAL | {"branch_scale": depth**-0.5}
    profile = predicted("relu", sigma_w2=2.0, depth=depth, **scales)
    expected = depth * math.log1p(1 / depth)
    assert profile[0] == approx(expected, rel=1e-12)


def test_residual_tanh_grows_with_the_root_of_depth():
    """As (8/3)√(l/2π), which it approaches slowly."""
    profile = predicted("tanh", depth=400, **RESIDUAL)
    layer = np.arange(50, 401)
    growth = profile[0] - profile[layer]
    exponent = np.polyfit(np.log(layer), np.log(growth), 1)[0]
    expected_factor = 8 / 3 / math.sqrt(2 * math.pi)
    assert exponent == approx(0.5, abs=0.06)
    assert_allclose(growth / np.sqrt(layer), expected_factor, atol=0.12)


@pytest.mark.parametrize("sigma_w2", [1 / 3, 1.0, 4.0, 50.0])
def test_sigmoid_never_exceeds_its_largest_slope(sigma_w2):
    log_factors = -np.diff(predicted("sigmoid", sigma_w2=sigma_w2))
    assert np.all(log_factors <= math.log(sigma_w2 / 16))


@pytest.mark.parametrize("norm, placement", NORMS)
@pytest.mark.parametrize("name", NAMES)
def test_a_branch_of_scale_zero_leaves_the_gradient_unchanged(name, norm, placement):
    scales = RESIDUAL | {"branch_scale": 0.0}
    profile = predicted(name, norm=norm, placement=placement, **scales)
    assert_array_equal(profile, np.zeros(DEPTH + 1))


@pytest.mark.parametrize("sigma_w2", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("placement", ["pre", "branch", "post", "peri"])
@pytest.mark.parametrize("name", NAMES)
def test_with_layer_norm_the_factor_does_not_depend_on_the_weights(name, placement, sigma_w2):
    profile = predicted(name, sigma_w2=sigma_w2, norm="layer", placement=placement)
    log_factors = -np.diff(profile[1:])
    expected = math.log(mean_field.moments(name).chi_1)
    assert_allclose(log_factors, expected, atol=1e-12)


@pytest.mark.parametrize("placement", ["pre", "branch", "peri"])
def test_residual_layer_norm_grows_linearly_with_depth(placement):
    """As Π (1 + 1/q_l) with q_l = 1 + l."""
    profile = predicted(
        "relu",
        sigma_w2=2.0,
        depth=4000,
        norm="layer",
        placement=placement,
        **RESIDUAL,
    )
    assert profile[0] == approx(math.log(4001), rel=1e-9)


@pytest.mark.parametrize(
    ("activation", "batch", "expected", "tolerance"),
    [
        ("relu", 8, 1.788, 1e-3),
        ("relu", 16, 1.590, 1e-3),
        ("relu", 32, 1.522, 1e-3),
        ("relu", 64, 1.493, 1e-3),
        ("relu", 128, 1.480, 1e-3),
        ("relu", 256, 1.473, 1e-3),
        ("relu", 10**7, math.pi / (math.pi - 1), 1e-3),
        ("linear", 6, 4 / 3, 1e-6),
        ("linear", 8, 6 / 5, 1e-6),
    ],
)
def test_batch_norm_rates(activation, batch, expected, tolerance):
    rate = profiles.batch_norm_rate(activation, batch)
    assert rate == approx(expected, abs=tolerance)


def test_no_batch_norm_rate_for_batches_below_four():
    assert profiles.batch_norm_rate("relu", 3) is None


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"relu", "linear"}))
def test_no_batch_norm_rate_for_other_nonlinearities(name):
    assert profiles.batch_norm_rate(name, 64) is None


def predict_plain_batch_norm(activation, batch):
    return predicted(
        activation,
        sigma_w2=0.7,
        sigma_b2=0.2,
        norm="batch",
        batch=batch,
    )


@pytest.mark.parametrize("batch", [4, 16, 256])
@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_plain_batch_norm_explodes_at_its_rate(activation, batch):
    profile = predict_plain_batch_norm(activation, batch)
    rate = profiles.batch_norm_rate(activation, batch)
    assert rate is not None
    log_factors = -np.diff(profile)
    assert_allclose(log_factors[1:-1], math.log(rate), rtol=1e-10)


@pytest.mark.parametrize("batch", [4, 16, 256])
@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_the_last_layer_of_plain_batch_norm_still_sees_a_mean_over_the_batch(activation, batch):
    profile = predict_plain_batch_norm(activation, batch)
    correlation = -1 / (batch - 1)
    kappa_1 = mean_field.kappa_1(correlation) if activation == "relu" else correlation
    expected = (batch - 2) / ((batch - 3) * (1 - kappa_1))
    assert profile[-2] == approx(math.log(expected), abs=1e-12)


def test_residual_batch_norm_grows_as_a_power_of_depth():
    profile = predicted(
        "relu",
        sigma_w2=2.0,
        depth=4000,
        norm="batch",
        batch=10**6,
        **RESIDUAL,
    )
    layer = np.arange(400, 4001)
    growth = profile[0] - profile[layer]
    exponent = np.polyfit(np.log(layer), growth, 1)[0]
    assert exponent == approx(math.pi / (math.pi - 1), rel=2e-3)  # up to 1/l


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("name", ["q0", "sigma_w2", "sigma_b2", "branch_scale", "shortcut_scale"])
def test_no_prediction_from_numbers_that_are_not_finite(name, activation, value):
    assert predict(activation, **{name: value}) is None


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_no_prediction_where_a_square_overflows(activation):
    assert predict(activation, shortcut_scale=1e200) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "mish"},
        {"norm": "rms"},
        {"norm": "layer", "placement": "elsewhere"},
        {"norm": "batch"},  # no closed form for tanh
        {"norm": "batch", "activation": "relu", "batch": 3},
        {"norm": "batch", "activation": "relu", "placement": "post"},
        {"q0": 0.0},
        {"sigma_b2": -0.1},
        {"sigma_w2": 0.0},
        {"norm": "layer", "q0": 1e-6},  # as small as the norm's epsilon
        {"norm": "layer", "placement": "post", "sigma_w2": 1e-6},
        {"norm": "batch", "activation": "relu", "sigma_w2": 1e-6},
    ],
)
def test_no_prediction_is_guessed(changes):
    settings = {"activation": "tanh"} | changes
    assert predict(**settings) is None


@pytest.mark.parametrize(
    ("sigma_w2", "scales"),
    [
        (9.0, PLAIN),
        (0.01, PLAIN),
        (9.0, RESIDUAL),
        (1.0, RESIDUAL | {"shortcut_scale": 2.0}),
    ],
)
@pytest.mark.parametrize("norm, placement", [*NORMS, ("batch", "pre")])
@pytest.mark.parametrize("name", NAMES)
def test_extreme_variances_neither_warn_nor_crash(name, norm, placement, sigma_w2, scales):
    profile = predict(
        name,
        sigma_w2=sigma_w2,
        depth=1500,
        norm=norm,
        placement=placement,
        **scales,
    )
    if profile is not None:
        assert profile.shape == (1501,)
        assert profile[-1] == 0
        assert np.all(np.isfinite(profile))


def test_the_factor_per_layer_points_towards_the_input():
    profile = layers_above(20) * math.log(1.5)
    assert profiles.factor_per_layer(profile) == approx(1.5, rel=1e-12)


def test_skipped_layers_do_not_enter_the_factor_per_layer():
    profile = layers_above(20) * math.log(1.5)
    profile[:3] += 7.0
    assert profiles.factor_per_layer(profile, 3) == approx(1.5, rel=1e-12)
    assert profiles.factor_per_layer(profile, 2) > 1.6


def test_one_point_has_no_factor_per_layer():
    profile = layers_above(20) * math.log(1.5)
    assert math.isnan(profiles.factor_per_layer(profile, 20))


def squared_norm(g: np.ndarray) -> np.ndarray:
    return np.sum(g * g, (1, 2))


def relu_log_ratios(
    depth: int,
    width: int,
    networks: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """ln(‖∂L/∂h_0‖²/‖∂L/∂h_N‖²) of many plain He ReLU networks."""
    h, g = rng.standard_normal((2, networks, 1, width))
    last = squared_norm(g)
    weights = []
    gates = []
    for _ in range(depth):
        weight = rng.standard_normal((networks, width, width)) * math.sqrt(2 / width)
        weights.append(weight)
        gates.append(h > 0)
        h = np.maximum(h, 0) @ weight
    for layer in reversed(range(depth)):
        transposed = weights[layer].transpose(0, 2, 1)
        g = gates[layer] * (g @ transposed)
    return np.log(squared_norm(g) / last)


@pytest.mark.slow
def test_finite_width_spreads_the_logarithm():
    rng = np.random.default_rng(0)
    groups = []
    for _ in range(16):
        groups.append(relu_log_ratios(20, 64, 100, rng))
    measured = np.concatenate(groups)
    mean, deviation = profiles.finite_width_band(20, 64)
    # Four standard errors of 1600 networks.
    assert np.mean(measured) == approx(mean, abs=4 * deviation / 40)
    assert np.std(measured) == approx(deviation, rel=4 / math.sqrt(2 * 1600))


def test_a_scaled_norm_grows_with_the_logarithm_of_depth():
    """As Π (1 + 1/(l·q_l)) with q_l = 1 + H_{l−1}, for φ(x) = x and σ_w = 1."""
    depth = 4000
    profile = predicted(
        "linear",
        depth=depth,
        norm="layer",
        scales_norm=True,
        **RESIDUAL,
    )
    harmonic = np.sum(1 / np.arange(1, depth + 1))
    assert profile[0] == approx(math.log(1 + harmonic), rel=1e-9)


@pytest.mark.parametrize("scales_norm, expected", [(False, 64.0), (True, 4.7439)])
def test_the_variance_of_a_pre_norm_stream(scales_norm, expected):
    """Of 64 layers: l, or the harmonic number H_64."""
    variances = profiles.pre_norm_variances(64, scales_norm=scales_norm)
    assert variances[0] == 0
    assert variances[-1] == approx(expected, rel=1e-4)


class Normalisation:
    """Mean 0 and variance 1 over an axis; the identity where ``axis`` is None."""

    def __init__(self, axis: int | None):
        self.axis = axis

    def forward(self, h: np.ndarray) -> np.ndarray:
        if self.axis is None:
            return h
        self.deviation = np.std(h, self.axis, keepdims=True)
        self.output = (h - self.mean(h)) / self.deviation
        return self.output

    def backward(self, g: np.ndarray) -> np.ndarray:
        if self.axis is None:
            return g
        projection = self.output * self.mean(g * self.output)
        return (g - self.mean(g) - projection) / self.deviation

    def mean(self, x: np.ndarray) -> np.ndarray:
        return np.mean(x, self.axis, keepdims=True)


class RandomLayer:
    """A residual layer of random weights, in NumPy."""

    def __init__(
        self,
        activation: str,
        norm: str,
        placement: str,
        numbers: dict[str, Any],
    ):
        self.activation = NONLINEARITIES[activation]
        self.numbers = numbers
        axis = {"none": None, "layer": 1, "batch": 0}[norm]
        self.pre = Normalisation(axis if placement in ("pre", "peri") else None)
        self.branch = Normalisation(axis if placement in ("branch", "peri") else None)
        self.post = Normalisation(axis if placement == "post" else None)

    def forward(self, h: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        width = h.shape[1]
        weights = rng.standard_normal((width, width))
        self.weights = math.sqrt(self.numbers["sigma_w2"] / width) * weights
        bias = math.sqrt(self.numbers["sigma_b2"]) * rng.standard_normal(width)
        z = self.pre.forward(h)
        self.derivative = self.activation.derivative(z)
        branch = self.activation.function(z) @ self.weights + bias
        branch = self.numbers["branch_scale"] * self.branch.forward(branch)
        return self.post.forward(self.numbers["shortcut_scale"] * h + branch)

    def backward(self, g: np.ndarray) -> np.ndarray:
        g = self.post.backward(g)
        branch = self.branch.backward(g) @ self.weights.T
        branch = self.pre.backward(self.derivative * branch)
        return self.numbers["shortcut_scale"] * g + self.numbers["branch_scale"] * branch


def measure_profile(layers: list[RandomLayer], h: np.ndarray, rng: np.random.Generator):
    """ln of the squared gradient norms relative to the last, for a random cotangent at the end."""
    for layer in layers:
        h = layer.forward(h, rng)
    g = rng.standard_normal(h.shape)
    squares = [np.sum(g * g)]
    for layer in reversed(layers):
        g = layer.backward(g)
        squares.append(np.sum(g * g))
    return np.log(squares[::-1]) - math.log(squares[0])


# The tolerance: a layer's squared norm has a variance of about 5/n, so after 6 layers the mean of
# 16 samples has a standard deviation of √(30/16000) = 0.04; 0.12 is three of those. Batch norm
# couples the samples: 0.2.
CASES = []
for activation in ("tanh", "gelu"):
    for norm, placement in NORMS:
        CASES.append((activation, norm, placement, 0.12))
for activation in ("relu", "linear"):
    CASES.append((activation, "batch", "pre", 0.2))


@pytest.mark.parametrize(
    "shortcut_scale, branch_scale",
    [
        (0.0, 1.0),
        pytest.param(1.0, 1.0, marks=pytest.mark.slow),
        (0.9, 0.5),
    ],
)
@pytest.mark.parametrize("activation, norm, placement, tolerance", CASES)
def test_a_wide_random_network_does_as_predicted(
    activation, norm, placement, tolerance, shortcut_scale, branch_scale
):
    batch = 16
    width = 1000
    depth = 6
    numbers = {
        "sigma_w2": 1.9,
        "sigma_b2": 0.1,
        "shortcut_scale": shortcut_scale,
        "branch_scale": branch_scale,
    }
    rng = np.random.default_rng(0)
    independent = math.sqrt(0.6 - 0.1) * rng.standard_normal((batch, width))
    bias = math.sqrt(0.1) * rng.standard_normal(width)  # the same for all samples
    layers = []
    for _ in range(depth):
        layers.append(RandomLayer(activation, norm, placement, numbers))

    measured = measure_profile(layers, independent + bias, rng)

    expected = predicted(
        activation,
        norm=norm,
        placement=placement,
        depth=depth,
        batch=batch,
        q0=0.6,
        **numbers,
    )
    assert_allclose(measured, expected, atol=tolerance)


def random_network(name, depth, *, width, bias_mean=0.0, gains=None):
    """The signals of two inputs, and the slopes, of a plain network in NumPy, sigma_w2 = 1.5."""
    draw = np.random.default_rng(0).standard_normal
    h = draw((2, width)) + bias_mean
    h[1] = 0.6 * h[0] + 0.8 * h[1] if not bias_mean else h[1]
    weights = []
    signals = [h]
    for layer in range(depth):
        gain = 1.0 if gains is None else gains[layer]
        weight = gain * math.sqrt(1.5 / width) * draw((width, width))
        h = NONLINEARITIES[name].function(h) @ weight + bias_mean
        weights.append(weight)
        signals.append(h)
    return signals, weights


def gradient_profile(name, signals, weights):
    """ln of the squared gradient of a random cotangent over that at the end, for both inputs."""
    gradient = np.random.default_rng(1).standard_normal(signals[-1].shape)
    squares = [np.sum(gradient**2)]
    for h, weight in zip(signals[-2::-1], weights[::-1], strict=True):
        gradient = (gradient @ weight.T) * NONLINEARITIES[name].derivative(h)
        squares.append(np.sum(gradient**2))
    return np.log(np.array(squares[::-1]) / squares[0])


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_biases_with_a_mean_and_a_layer_of_its_own_change_the_profile(name):
    depth = 6
    width = 1500
    gains = [1, 1, 0.5, 1, 1, 1]
    signals, weights = random_network(name, depth, width=width, bias_mean=0.4, gains=gains)
    settings = {"sigma_w2": 1.5, "depth": depth, "bias_mean": 0.4}
    profile = predicted(name, special_layer=2, special_gain=0.5, **settings)
    assert_allclose(profile, gradient_profile(name, signals, weights), atol=0.1)
    assert abs(profile[0] - predicted(name, **settings | {"bias_mean": 0.0})[0]) > 0.2


def test_there_is_no_prediction_for_the_mean_of_biases_with_a_norm():
    assert predict("relu", norm="layer", bias_mean=0.1) is None
    assert predict("relu", norm="batch", special_layer=0, special_gain=2.0) is None


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_the_correlation_of_two_inputs_is_that_of_a_wide_network(name):
    signals, _ = random_network(name, 6, width=1500)
    cosines = []
    for a, b in signals:
        cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    theory = profiles.signal_correlations(
        activation=name, sigma_w2=1.5, sigma_b2=0.0, depth=6, q0=1.0, c0=cosines[0]
    )
    assert_allclose(theory, cosines, atol=0.04)


def test_the_correlation_of_a_rectifier_network_is_that_of_the_arc_cosine_kernel():
    theory = profiles.signal_correlations(
        activation="relu", sigma_w2=2.0, sigma_b2=0.0, depth=3, q0=1.0, c0=0.2
    )
    expected = [0.2]
    for _ in range(3):
        expected.append(mean_field.kappa_1(expected[-1]))
    assert_allclose(theory, expected, atol=5e-4)


@pytest.mark.parametrize(
    ("name", "expected"), [("relu", 1.0), ("linear", 1.0), ("gelu", 2.0), ("tanh", 0.5)]
)
def test_the_fixed_point_of_the_variance_is_unstable_for_gelu(name, expected):
    """At the variance 1 that the weights keep; d ln V / d ln q there, to the power of the depth."""
    sigma_w2 = mean_field.moments(name).sigma_w2
    sensitivity = profiles.variance_sensitivity(
        activation=name, sigma_w2=sigma_w2, sigma_b2=0.0, depth=8, q0=1.0
    )
    assert (sensitivity > 1.05) == (expected > 1)
    assert (sensitivity < 0.95) == (expected < 1)
    slope = (mean_field.variance_map(name, 1.001, sigma_w2, 0.0) - 1) / 0.001
    assert_allclose(sensitivity, slope**8, rtol=0.02)
