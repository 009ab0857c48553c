"""Mean-field theory against published numbers, its own laws, and wide random networks in NumPy."""

import math
from typing import Any

import numpy as np
import pytest

from research.theory import mean_field
from research.theory import profiles as theory
from research.theory.mean_field import NONLINEARITIES
from research.theory.profiles import predict_profile

pytestmark = pytest.mark.filterwarnings("error")

NAMES = sorted(NONLINEARITIES)
NORMS = [("none", "pre"), ("layer", "pre"), ("layer", "branch"), ("layer", "post")]
PLAIN = {"branch_scale": 1.0, "shortcut_scale": 0.0}
RESIDUAL = {"branch_scale": 1.0, "shortcut_scale": 1.0}


def predict(activation: str, **changes: Any) -> np.ndarray | None:
    """The prediction for a plain network without bias and norm of depth 20, but for the ``changes``."""
    default = {"sigma_w2": 1.0, "sigma_b2": 0.0, "depth": 20, "q0": 1.0, **PLAIN}
    return predict_profile(
        activation=activation,
        **(default | {"norm": "none", "placement": "pre", "batch": 64} | changes),
    )


def predicted(activation: str, **changes: Any) -> np.ndarray:
    profile = predict(activation, **changes)
    assert profile is not None
    return profile


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_network_at_its_fixed_point_changes_by_chi_a_layer(name):
    sigma_w2 = 0.8 * mean_field.moments(name).sigma_w2
    q0 = mean_field.fixed_point(name, sigma_w2, 0.05)
    profile = predicted(name, sigma_w2=sigma_w2, sigma_b2=0.05, q0=q0)
    expected = np.arange(20, -1, -1) * math.log(mean_field.chi_1(name, sigma_w2, 0.05))
    np.testing.assert_allclose(profile, expected, atol=1e-9)


@pytest.mark.parametrize("depth", [0, 1, 50, 3000])  # at 3000 the variance overflows
@pytest.mark.parametrize("sigma_w2", [1.0, 2.0, 3.0])
def test_plain_relu_changes_by_half_the_weights_variance(sigma_w2, depth):
    expected = np.arange(depth, -1, -1) * math.log(sigma_w2 / 2)
    for sigma_b2, q0 in [(0.0, 1.0), (0.3, 1e300)]:
        profile = predicted("relu", sigma_w2=sigma_w2, sigma_b2=sigma_b2, depth=depth, q0=q0)
        assert profile.dtype == np.float64
        np.testing.assert_allclose(profile, expected, rtol=1e-12)  # the sum's rounding


def test_residual_relu_grows_by_the_square_of_the_branch_scale():
    for scale, total in [(1.0, 69.3), (0.5, 22.3), (0.1, 0.995)]:
        changes = RESIDUAL | {"branch_scale": scale}
        assert predicted("relu", sigma_w2=2.0, depth=100, **changes)[0] == pytest.approx(
            total, rel=2e-3
        )


@pytest.mark.parametrize("depth", [1, 10, 1000])
def test_residual_relu_scaled_by_depth_grows_towards_e(depth):
    profile = predicted(
        "relu", sigma_w2=2.0, depth=depth, **RESIDUAL | {"branch_scale": depth**-0.5}
    )
    assert profile[0] == pytest.approx(depth * math.log1p(1 / depth), rel=1e-12)


def test_residual_tanh_grows_with_the_root_of_depth():
    profile = predicted("tanh", depth=400, **RESIDUAL)
    layer = np.arange(50, 401)
    growth = profile[0] - profile[layer]
    assert np.polyfit(np.log(layer), np.log(growth), 1)[0] == pytest.approx(
        0.5, abs=0.06
    )  # (8/3)√(l/2π), slowly reached
    np.testing.assert_allclose(growth / np.sqrt(layer), 8 / 3 / math.sqrt(2 * math.pi), atol=0.12)


@pytest.mark.parametrize("sigma_w2", [1 / 3, 1.0, 4.0, 50.0])
def test_sigmoid_never_exceeds_its_greatest_slope(sigma_w2):
    assert np.all(-np.diff(predicted("sigmoid", sigma_w2=sigma_w2)) <= math.log(sigma_w2 / 16))


@pytest.mark.parametrize("norm, placement", NORMS)
@pytest.mark.parametrize("name", NAMES)
def test_a_silent_branch_leaves_the_gradient_alone(name, norm, placement):
    changes = RESIDUAL | {"branch_scale": 0.0}
    np.testing.assert_array_equal(
        predicted(name, norm=norm, placement=placement, **changes), np.zeros(21)
    )


@pytest.mark.parametrize("placement", ["pre", "branch", "post"])
@pytest.mark.parametrize("name", NAMES)
def test_plain_layer_norm_makes_every_scale_keep_the_variance(name, placement):
    for sigma_w2 in (0.3, 1.0, 5.0):
        profile = predicted(name, sigma_w2=sigma_w2, norm="layer", placement=placement)
        np.testing.assert_allclose(
            -np.diff(profile[1:]), math.log(mean_field.moments(name).chi_1), atol=1e-12
        )


@pytest.mark.parametrize("placement", ["pre", "branch"])
def test_residual_layer_norm_grows_linearly_with_depth(placement):
    profile = predicted(
        "relu", sigma_w2=2.0, depth=4000, norm="layer", placement=placement, **RESIDUAL
    )
    assert profile[0] == pytest.approx(math.log(4001), rel=1e-9)  # Π (1 + 1/q_l), q_l = 1 + l


def test_batch_norm_rates():
    rates = {
        8: 1.788,
        16: 1.590,
        32: 1.522,
        64: 1.493,
        128: 1.480,
        256: 1.473,
        10**7: math.pi / (math.pi - 1),
    }
    assert {batch: theory.batch_norm_rate("relu", batch) for batch in rates} == pytest.approx(
        rates, abs=1e-3
    )
    assert [theory.batch_norm_rate("linear", batch) for batch in (6, 8)] == pytest.approx(
        [4 / 3, 6 / 5]
    )
    assert theory.batch_norm_rate("relu", 3) is None
    assert {theory.batch_norm_rate(name, 64) for name in set(NAMES) - {"relu", "linear"}} == {None}


@pytest.mark.parametrize("batch", [4, 16, 256])
@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_plain_batch_norm_explodes_at_its_rate_inside(activation, batch):
    profile = predicted(activation, sigma_w2=0.7, sigma_b2=0.2, norm="batch", batch=batch)
    rate = theory.batch_norm_rate(activation, batch)
    assert rate is not None
    np.testing.assert_allclose(-np.diff(profile)[1:-1], math.log(rate), rtol=1e-10)
    k1 = mean_field.kappa_1(-1 / (batch - 1)) if activation == "relu" else -1 / (batch - 1)
    top = (batch - 2) / ((batch - 3) * (1 - k1))  # the cotangent still has a mean over the batch
    assert profile[-2] == pytest.approx(math.log(top), abs=1e-12)


def test_residual_batch_norm_grows_as_a_power_of_depth():
    profile = predicted("relu", sigma_w2=2.0, depth=4000, norm="batch", batch=10**6, **RESIDUAL)
    layer = np.arange(400, 4001)
    exponent = np.polyfit(np.log(layer), profile[0] - profile[layer], 1)[0]
    assert exponent == pytest.approx(math.pi / (math.pi - 1), rel=2e-3)  # up to 1/l


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("name", ["q0", "sigma_w2", "sigma_b2", "branch_scale", "shortcut_scale"])
def test_no_number_from_numbers_that_are_not_finite(name, activation):
    assert predict(activation, **{name: math.nan}) is None
    assert predict(activation, **{name: math.inf}) is None
    assert predict(activation, shortcut_scale=1e200) is None  # its square is not


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
def test_no_number_is_guessed(changes):
    assert predict(**({"activation": "tanh"} | changes)) is None


@pytest.mark.parametrize("norm, placement", [*NORMS, ("batch", "pre")])
@pytest.mark.parametrize("name", NAMES)
def test_exploding_and_vanishing_variances_neither_warn_nor_crash(name, norm, placement):
    for sigma_w2, scales in [
        (9.0, PLAIN),
        (0.01, PLAIN),
        (9.0, RESIDUAL),
        (1.0, RESIDUAL | {"shortcut_scale": 2.0}),
    ]:
        profile = predict(
            name, sigma_w2=sigma_w2, depth=1500, norm=norm, placement=placement, **scales
        )
        assert profile is None or (
            profile.shape == (1501,) and profile[-1] == 0 and np.all(np.isfinite(profile))
        )


def test_factor_per_layer_points_towards_the_input():
    profile = np.arange(20, -1, -1) * math.log(1.5)
    assert theory.factor_per_layer(profile) == pytest.approx(1.5, rel=1e-12)
    profile[:3] += 7.0
    assert theory.factor_per_layer(profile, 3) == pytest.approx(1.5, rel=1e-12)
    assert theory.factor_per_layer(profile, 2) > 1.6
    assert math.isnan(theory.factor_per_layer(profile, 20))


def relu_log_ratios(depth: int, width: int, networks: int, rng: np.random.Generator) -> np.ndarray:
    """ln(‖∂L/∂h_0‖²/‖∂L/∂h_N‖²) of many plain He ReLU networks."""
    h, g = rng.standard_normal((2, networks, 1, width))
    start = np.sum(g * g, (1, 2))
    layers = []
    for _ in range(depth):
        layers.append((rng.standard_normal((networks, width, width)) * math.sqrt(2 / width), h > 0))
        h = np.maximum(h, 0) @ layers[-1][0]
    for weights, gates in reversed(layers):
        g = gates * (g @ weights.transpose(0, 2, 1))
    return np.log(np.sum(g * g, (1, 2)) / start)


def test_finite_width_spreads_the_logarithm():
    rng = np.random.default_rng(0)
    measured = np.concatenate([relu_log_ratios(20, 64, 100, rng) for _ in range(16)])
    mean, deviation = theory.finite_width_band(20, 64)
    assert np.mean(measured) == pytest.approx(
        mean, abs=4 * deviation / 40
    )  # 4 standard errors of 1600 networks
    assert np.std(measured) == pytest.approx(deviation, rel=4 / math.sqrt(2 * 1600))


WIDTH = 1000
BATCH = 16
DEPTH = 6


def normalised(h: np.ndarray, axis: int | None) -> tuple[np.ndarray, Any]:
    """``h`` at mean 0 and variance 1 over ``axis`` (None: as it is), and the map of gradients backward."""
    if axis is None:
        return h, lambda g: g
    deviation = np.std(h, axis, keepdims=True)
    z = (h - np.mean(h, axis, keepdims=True)) / deviation

    def backward(g: np.ndarray) -> np.ndarray:
        return (
            g - np.mean(g, axis, keepdims=True) - z * np.mean(g * z, axis, keepdims=True)
        ) / deviation

    return z, backward


def measured_profile(
    activation: str, norm: str, placement: str, s: float, a: float, w2: float, b2: float, q0: float
):
    """ln of the squared gradient norms of a random network over that at its end, for a random cotangent."""
    rng = np.random.default_rng(0)
    phi, slope = NONLINEARITIES[activation]
    axes = {"pre": None, "branch": None, "post": None} | {
        placement: {"none": None, "layer": 1, "batch": 0}[norm]
    }
    h = math.sqrt(q0 - b2) * rng.standard_normal((BATCH, WIDTH)) + math.sqrt(
        b2
    ) * rng.standard_normal(WIDTH)
    layers = []
    for _ in range(DEPTH):
        weights = math.sqrt(w2 / WIDTH) * rng.standard_normal((WIDTH, WIDTH))
        bias = rng.standard_normal(WIDTH)
        z, pre = normalised(h, axes["pre"])
        branch, behind = normalised(phi(z) @ weights + math.sqrt(b2) * bias, axes["branch"])
        h, post = normalised(s * h + a * branch, axes["post"])
        layers.append((weights, slope(z), pre, behind, post))
    g = rng.standard_normal((BATCH, WIDTH))
    squares = [np.sum(g * g)]
    for weights, slopes, pre, behind, post in reversed(layers):
        g = post(g)
        g = s * g + a * pre(slopes * (behind(g) @ weights.T))
        squares.append(np.sum(g * g))
    return np.log(squares[::-1]) - math.log(squares[0])


# Tolerances: a layer's squared norm has a variance of about 5/n, so after 6 layers the mean of 16 samples has a
# standard deviation of √(30/16000) = 0.04; 0.12 is three of those. Batch norm ties the samples together: 0.2.
CASES = [(name, *where, 0.12) for name in ("tanh", "gelu") for where in NORMS]
CASES += [(name, "batch", "pre", 0.2) for name in ("relu", "linear")]


@pytest.mark.parametrize("s, a", [(0.0, 1.0), (1.0, 1.0), (0.9, 0.5)])
@pytest.mark.parametrize("activation, norm, placement, tolerance", CASES)
def test_a_wide_random_network_does_as_predicted(activation, norm, placement, tolerance, s, a):
    numbers = {"sigma_w2": 1.9, "sigma_b2": 0.1, "q0": 0.6}
    scales = {"shortcut_scale": s, "branch_scale": a}
    profile = predicted(
        activation, norm=norm, placement=placement, depth=DEPTH, batch=BATCH, **numbers, **scales
    )
    measured = measured_profile(activation, norm, placement, s, a, *numbers.values())
    np.testing.assert_allclose(measured, profile, atol=tolerance)
