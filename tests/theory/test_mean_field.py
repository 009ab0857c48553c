"""Moments, fixed points and depth scales: closed forms, fine grids, sampling, published numbers."""

import dataclasses
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from pytest import approx

from research.theory import mean_field
from research.theory.mean_field import NONLINEARITIES, expectation

pytestmark = pytest.mark.filterwarnings("error")

NAMES = sorted(NONLINEARITIES)
MOMENTS = {  # E φ, E φ², E φ'², σ_w² that keeps the variance 1, χ₁ there
    "linear": (0, 1, 1, 1, 1),
    "relu": (0.3989, 0.5, 0.5, 2, 1),
    "abs": (0.7979, 1, 1, 1, 1),
    "tanh": (0, 0.3943, 0.4644, 2.5362, 1.1778),
    "sigmoid": (0.5, 0.2934, 0.0448, 3.4086, 0.1528),
    "softsign": (0, 0.1830, 0.2277, 5.4641, 1.2440),
    "gelu": (0.2821, 0.4252, 0.4559, 2.3517, 1.0720),
    "silu": (0.2066, 0.3558, 0.3795, 2.8108, 1.0666),
    "elu": (0.1605, 0.6449, 0.6681, 1.5505, 1.0359),
    "selu": (0, 1, 1.0716, 1, 1.0716),
}


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_central_differences(name):
    nonlinearity = NONLINEARITIES[name]
    x = np.linspace(-5, 5, 200)  # an even number of points: none is on the kink at 0
    step = 1e-5
    rise = nonlinearity.function(x + step) - nonlinearity.function(x - step)
    # The tolerance is the rounding, ε/step.
    assert_allclose(nonlinearity.derivative(x), rise / (2 * step), atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_moments_at_variance_one(name):
    moments = dataclasses.astuple(mean_field.moments(name))
    assert_allclose(moments, MOMENTS[name], atol=1e-4)


@pytest.mark.parametrize("q", [1e-30, 1e-3, 1.0, 1e6, 1e12])
def test_expectation_has_the_closed_forms_of_gaussian_integrals(q):
    bell = expectation(lambda x: np.exp(-x * x), q)
    absolute = expectation(np.abs, q)
    fourth_power = expectation(lambda x: x**4, q)
    assert bell == approx((1 + 2 * q) ** -0.5, rel=1e-10)
    assert absolute == approx(math.sqrt(2 * q / math.pi), rel=1e-12)
    assert fourth_power == approx(3 * q * q, rel=1e-12)


@pytest.mark.parametrize("part", ["function", "derivative"])
@pytest.mark.parametrize("q", [0.3, 7.0, 100.0])
@pytest.mark.parametrize("name", NAMES)
def test_expectation_is_the_sum_over_a_fine_grid(name, q, part):
    f = getattr(NONLINEARITIES[name], part)
    spacing = 1e-4
    z = (np.arange(-90_000, 90_000) + 0.5) * spacing
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    sum_over_grid = np.sum(f(math.sqrt(q) * z) ** 2 * density) * spacing
    mean_square = expectation(lambda x: f(x) ** 2, q)
    assert mean_square == approx(sum_over_grid, rel=1e-6)  # the grid's error, h² q


@pytest.mark.parametrize("q", [0.0, 1e-320, 1e-30])
@pytest.mark.parametrize("name", NAMES)
def test_the_mean_square_derivative_is_right_at_tiny_variances(name, q):
    derivative = NONLINEARITIES[name].derivative
    both_sides_of_zero = derivative(np.array([-1e-12, 1e-12]))
    expected = np.mean(both_sides_of_zero**2)
    mean_square = expectation(lambda x: derivative(x) ** 2, q)
    assert mean_square == approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("c", "kappa_0", "kappa_1"),
    [
        (-1.0, 0, 0),
        (0.0, 1 / 2, 1 / math.pi),
        (1.0, 1, 1),
    ],
)
def test_arc_cosine_kernels_at_special_correlations(c, kappa_0, kappa_1):
    assert mean_field.kappa_0(c) == approx(kappa_0)
    assert mean_field.kappa_1(c) == approx(kappa_1)


def test_arc_cosine_kernels_by_sampling():
    u, w = np.random.default_rng(0).standard_normal((2, 400_000))
    v = 0.6 * u + 0.8 * w
    both_positive = (u > 0) & (v > 0)
    sampled_0 = 2 * np.mean(both_positive)
    sampled_1 = 2 * np.mean(u * v * both_positive)
    # Four standard errors.
    assert sampled_0 == approx(mean_field.kappa_0(0.6), abs=0.006)
    assert sampled_1 == approx(mean_field.kappa_1(0.6), abs=0.012)


@pytest.mark.parametrize("name", NAMES)
def test_the_variance_stays_at_its_fixed_point(name):
    sigma_w2 = 0.8 * mean_field.moments(name).sigma_w2
    fixed = mean_field.fixed_point(name, sigma_w2, 0.05)
    following = mean_field.variance_map(name, fixed, sigma_w2, 0.05)
    assert following == approx(fixed, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_variance_approaches_its_fixed_point(name):
    sigma_w2 = 0.8 * mean_field.moments(name).sigma_w2
    fixed = mean_field.fixed_point(name, sigma_w2, 0.05)
    q = 1.0
    for _ in range(2000):
        q = mean_field.variance_map(name, q, sigma_w2, 0.05)
    assert q == approx(fixed, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "sigma_w2", "sigma_b2", "expected"),
    [
        ("relu", 1.0, 0.5, 1.0),
        ("relu", 2.0, 0.1, math.inf),
        ("gelu", 3.0, 0.0, math.inf),
        ("gelu", 2.0, 0.0, 0.0),
        ("tanh", 0.0, 0.0, 0.0),
    ],
)
def test_fixed_points_that_are_exact(name, sigma_w2, sigma_b2, expected):
    assert mean_field.fixed_point(name, sigma_w2, sigma_b2) == expected


def test_every_variance_is_a_fixed_point_of_critical_relu():
    assert mean_field.fixed_point("relu", 2.0, 0.0, start=3.0) == 3.0


def test_a_tiny_fixed_point():
    fixed = mean_field.fixed_point("tanh", 0.5, 1e-30)
    assert fixed == approx(2e-30, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_edge_of_chaos_has_factor_one(name):
    sigma_w2 = mean_field.critical_sigma_w2(name, 1.0)
    assert sigma_w2 is not None
    assert mean_field.chi_1(name, sigma_w2, 1.0) == approx(1, abs=1e-6)
    assert mean_field.chi_1(name, 0.99 * sigma_w2, 1.0) < 1
    assert mean_field.chi_1(name, 1.01 * sigma_w2, 1.0) > 1


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_no_edge_of_chaos_where_the_fixed_point_jumps(name):
    assert mean_field.critical_sigma_w2(name, 0.0) is None


@pytest.mark.parametrize(
    ("sigma_b2", "expected"),
    [
        (0.0, 1.0),
        (0.01, 1.4242),
        (0.05, 1.7610),
        (0.1, 1.9861),
        (0.3, 2.5051),
    ],
)
def test_the_edge_of_chaos_of_tanh(sigma_b2, expected):
    sigma_w2 = mean_field.critical_sigma_w2("tanh", sigma_b2)
    assert sigma_w2 is not None
    assert_allclose(sigma_w2, expected, atol=1e-3)


def test_the_fixed_point_of_tanh_at_the_edge_of_chaos():
    fixed = mean_field.fixed_point("tanh", 1.7610, 0.05)
    assert fixed == approx(0.570, abs=1e-3)


@pytest.mark.parametrize(
    ("sigma_w2", "expected"),
    [
        (0.5, 0.4320),
        (1.0, 0.7590),
        (1.5, 0.9386),
        (1.76, 0.9998),
        (2.0, 1.0477),
        (2.5, 1.1335),
        (3.0, 1.2089),
        (4.0, 1.3424),
    ],
)
def test_the_factor_of_tanh_from_order_to_chaos(sigma_w2, expected):
    chi_1 = mean_field.chi_1("tanh", sigma_w2, 0.05)
    assert_allclose(chi_1, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("sigma_w2", "expected"),
    [
        (0.6, 8.9),
        (0.9, 17.3),
        (1.2, 35.7),
        (1.5, 94.7),
    ],
)
def test_depth_scales_of_tanh(sigma_w2, expected):
    scale = mean_field.depth_scale("tanh", sigma_w2, 0.05)
    assert_allclose(6 * scale, expected, atol=0.06)


@pytest.mark.parametrize(
    ("sigma_w2", "expected"),
    [
        (1.0, 1 / math.log(2)),
        (2.0, math.inf),
        (4.0, 1 / math.log(2)),
    ],
)
def test_depth_scales_of_relu(sigma_w2, expected):
    assert mean_field.depth_scale("relu", sigma_w2, 0.0) == expected


@pytest.mark.parametrize("name", ["tanh", "softsign", "sigmoid"])
@pytest.mark.parametrize("c", [0.0, 0.5, 0.99])
def test_the_correlation_map_by_sampling(name, c):
    phi = NONLINEARITIES[name].function
    derivative = NONLINEARITIES[name].derivative
    q = mean_field.fixed_point(name, 2.0, 0.1)
    normal = np.random.default_rng(0).standard_normal((2, 400_000))
    u, w = math.sqrt(q) * normal
    v = c * u + math.sqrt(1 - c * c) * w
    sampled_map = (2 * np.mean(phi(u) * phi(v)) + 0.1) / q
    sampled_slope = 2 * np.mean(derivative(u) * derivative(v))
    correlation = mean_field.correlation_map(name, c, 2.0, 0.1)
    slope = mean_field.correlation_slope(name, c, 2.0, 0.1)
    assert correlation == approx(sampled_map, abs=0.01)
    assert slope == approx(sampled_slope, abs=0.01)


@pytest.mark.parametrize("c", [0.0, 0.3, 0.9])
def test_the_correlation_map_of_relu_is_the_arc_cosine_kernel(c):
    expected = mean_field.kappa_1(c) / 2 + 0.5  # σ_w² = 1, σ_b² = 1/2: q* = 1
    correlation = mean_field.correlation_map("relu", c, 1.0, 0.5)
    assert correlation == approx(expected, abs=1e-3)


def test_identical_inputs_stay_identical():
    correlation = mean_field.correlation_map("tanh", 1.0, 2.5, 0.05)
    assert correlation == approx(1, rel=1e-9)


def test_nearly_identical_inputs_separate_by_chi_1():
    chi_1 = mean_field.chi_1("tanh", 2.5, 0.05)
    slope = mean_field.correlation_slope("tanh", 1.0, 2.5, 0.05)
    assert slope == approx(chi_1, rel=1e-9)


@pytest.mark.parametrize(
    ("sigma_w2", "expected"),
    [
        (0.6, 8.9),
        (0.9, 17.3),
        (1.2, 35.7),
        (1.5, 94.7),
        (2.1, 116),
        (2.5, 70.8),
        (3.2, 50.7),
        (4.0, 41.9),
    ],
)
def test_correlation_depth_scales_of_tanh(sigma_w2, expected):
    scale = mean_field.correlation_depth_scale("tanh", sigma_w2, 0.05)
    assert_allclose(6 * scale, expected, rtol=5e-3)


@pytest.mark.parametrize("mean", [-6.0, -2.0, 0.3, 3.9])
def test_moments_about_a_mean_have_their_closed_forms(mean):
    """E relu(x)² = (μ² + σ²)Φ(μ/σ) + μσφ(μ/σ) and E relu'(x)² = Φ(μ/σ)."""
    deviation = 1.5
    ratio = mean / deviation
    below = 0.5 * math.erfc(-ratio / math.sqrt(2))
    density = math.exp(-ratio * ratio / 2) / math.sqrt(2 * math.pi)
    square = (mean**2 + deviation**2) * below + mean * deviation * density
    moments = mean_field.second_moments_about("relu", mean, deviation**2)
    assert moments.function == approx(square, abs=1e-6)
    assert moments.derivative == approx(below, abs=1e-3 if abs(ratio) >= 4 else 1e-9)
