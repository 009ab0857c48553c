"""Moments, fixed points and depth scales against closed forms, fine grids, sampling and published numbers."""

import math

import numpy as np
import pytest

from research.theory import mean_field
from research.theory.mean_field import NONLINEARITIES

pytestmark = pytest.mark.filterwarnings("error")

NAMES = sorted(NONLINEARITIES)
TABLE = {  # E φ, E φ², E φ'², σ_w² that keeps the variance 1, χ₁ there
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
def test_slopes_are_central_differences(name):
    phi, slope = NONLINEARITIES[name]
    # an even number of points: none on the kink at 0
    x = np.linspace(-5, 5, 200)
    step = 1e-5
    np.testing.assert_allclose(
        slope(x), (phi(x + step) - phi(x - step)) / (2 * step), atol=1e-9
    )  # rounding: eps/step


@pytest.mark.parametrize("name", NAMES)
def test_moments_at_variance_one(name):
    np.testing.assert_allclose(mean_field.moments(name), TABLE[name], atol=1e-4)


@pytest.mark.parametrize("q", [1e-30, 1e-3, 1.0, 1e6, 1e12])
def test_expectation_has_the_closed_forms_of_gaussian_integrals(q):
    assert mean_field.expectation(lambda x: np.exp(-x * x), q) == pytest.approx(
        (1 + 2 * q) ** -0.5, rel=1e-10
    )
    assert mean_field.expectation(np.abs, q) == pytest.approx(math.sqrt(2 * q / math.pi), rel=1e-12)
    assert mean_field.expectation(lambda x: x**4, q) == pytest.approx(3 * q * q, rel=1e-12)


@pytest.mark.parametrize("q", [0.3, 7.0, 100.0])
@pytest.mark.parametrize("name", NAMES)
def test_expectation_is_the_sum_over_a_fine_grid(name, q):
    z = (np.arange(-90_000, 90_000) + 0.5) * 1e-4
    for f in NONLINEARITIES[name]:
        grid = np.sum(f(math.sqrt(q) * z) ** 2 * np.exp(-z * z / 2)) * 1e-4 / math.sqrt(2 * math.pi)
        assert mean_field.expectation(lambda x, f=f: f(x) ** 2, q) == pytest.approx(
            grid, rel=1e-6
        )  # the grid's, h² q


@pytest.mark.parametrize("q", [0.0, 1e-320, 1e-30])
@pytest.mark.parametrize("name", NAMES)
def test_no_variance_is_too_small_for_the_slope(name, q):
    slope = NONLINEARITIES[name][1]
    sides = slope(np.array([-1e-12, 1e-12]))
    assert mean_field.expectation(lambda x: slope(x) ** 2, q) == pytest.approx(
        np.mean(sides**2), rel=1e-10
    )


def test_arc_cosine_kernels_at_their_ends_and_by_sampling():
    assert [mean_field.kappa_0(c) for c in (-1.0, 0.0, 1.0)] == pytest.approx([0, 1 / 2, 1])
    assert [mean_field.kappa_1(c) for c in (-1.0, 0.0, 1.0)] == pytest.approx([0, 1 / math.pi, 1])
    u, w = np.random.default_rng(0).standard_normal((2, 400_000))
    v = 0.6 * u + 0.8 * w
    both = (u > 0) & (v > 0)
    assert 2 * np.mean(both) == pytest.approx(
        mean_field.kappa_0(0.6), abs=0.006
    )  # 4 standard errors of 2·mean
    assert 2 * np.mean(u * v * both) == pytest.approx(mean_field.kappa_1(0.6), abs=0.012)


@pytest.mark.parametrize("name", NAMES)
def test_the_variance_stays_at_its_fixed_point(name):
    sigma_w2 = 0.8 * mean_field.moments(name).sigma_w2
    fixed = mean_field.fixed_point(name, sigma_w2, 0.05)
    assert mean_field.variance_map(name, fixed, sigma_w2, 0.05) == pytest.approx(fixed, rel=1e-12)
    q = 1.0
    for _ in range(2000):
        q = mean_field.variance_map(name, q, sigma_w2, 0.05)
    assert q == pytest.approx(fixed, rel=1e-9)


def test_fixed_points_at_the_ends_of_the_line():
    assert mean_field.fixed_point("relu", 1.0, 0.5) == 1.0
    assert mean_field.fixed_point("relu", 2.0, 0.0, start=3.0) == 3.0  # every variance is one
    assert mean_field.fixed_point("relu", 2.0, 0.1) == math.inf
    assert mean_field.fixed_point("gelu", 3.0, 0.0) == math.inf
    assert mean_field.fixed_point("gelu", 2.0, 0.0) == 0.0
    assert mean_field.fixed_point("tanh", 0.0, 0.0) == 0.0
    assert mean_field.fixed_point("tanh", 0.5, 1e-30) == pytest.approx(2e-30, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_edge_of_chaos_has_factor_one(name):
    sigma_w2 = mean_field.critical_sigma_w2(name, 1.0)
    assert sigma_w2 is not None
    assert mean_field.chi_1(name, sigma_w2, 1.0) == pytest.approx(1, abs=1e-6)
    assert (
        mean_field.chi_1(name, 0.99 * sigma_w2, 1.0)
        < 1
        < mean_field.chi_1(name, 1.01 * sigma_w2, 1.0)
    )


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_no_edge_of_chaos_where_the_fixed_point_leaps(name):
    assert mean_field.critical_sigma_w2(name, 0.0) is None


def test_tanh_from_order_to_chaos():
    found = [
        mean_field.critical_sigma_w2("tanh", sigma_b2) for sigma_b2 in (0.0, 0.01, 0.05, 0.1, 0.3)
    ]
    np.testing.assert_allclose(
        np.array(found, np.float64), [1.0, 1.4242, 1.7610, 1.9861, 2.5051], atol=1e-3
    )
    assert mean_field.fixed_point("tanh", 1.7610, 0.05) == pytest.approx(0.570, abs=1e-3)
    found = [
        mean_field.chi_1("tanh", sigma_w2, 0.05)
        for sigma_w2 in (0.5, 1.0, 1.5, 1.76, 2.0, 2.5, 3.0, 4.0)
    ]
    expected = [0.4320, 0.7590, 0.9386, 0.9998, 1.0477, 1.1335, 1.2089, 1.3424]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_depth_scales_of_tanh():
    found = [
        6 * mean_field.depth_scale("tanh", sigma_w2, 0.05) for sigma_w2 in (0.6, 0.9, 1.2, 1.5)
    ]
    np.testing.assert_allclose(found, [8.9, 17.3, 35.7, 94.7], atol=0.06)
    assert mean_field.depth_scale("relu", 2.0, 0.0) == math.inf
    assert [mean_field.depth_scale("relu", sigma_w2, 0.0) for sigma_w2 in (1.0, 4.0)] == [
        1 / math.log(2)
    ] * 2


@pytest.mark.parametrize("name", ["tanh", "softsign", "sigmoid"])
@pytest.mark.parametrize("c", [0.0, 0.5, 0.99])
def test_the_correlation_map_by_sampling(name, c):
    q = mean_field.fixed_point(name, 2.0, 0.1)
    u, w = math.sqrt(q) * np.random.default_rng(0).standard_normal((2, 400_000))
    v = c * u + math.sqrt(1 - c * c) * w
    phi, slope = NONLINEARITIES[name]
    sampled = (2 * np.mean(phi(u) * phi(v)) + 0.1) / q
    assert mean_field.correlation_map(name, c, 2.0, 0.1) == pytest.approx(sampled, abs=0.01)
    assert mean_field.correlation_slope(name, c, 2.0, 0.1) == pytest.approx(
        2 * np.mean(slope(u) * slope(v)), abs=0.01
    )


def test_the_correlation_map_of_rectifiers_is_the_arc_cosine_kernel():
    for c in (0.0, 0.3, 0.9):
        expected = mean_field.kappa_1(c) / 2 + 0.5  # σ_w² = 1, σ_b² = 1/2: q* = 1
        assert mean_field.correlation_map("relu", c, 1.0, 0.5) == pytest.approx(expected, abs=1e-3)


def test_identical_inputs_stay_identical_and_differ_by_chi():
    assert mean_field.correlation_map("tanh", 1.0, 2.5, 0.05) == pytest.approx(1, rel=1e-9)
    chi = mean_field.chi_1("tanh", 2.5, 0.05)
    assert mean_field.correlation_slope("tanh", 1.0, 2.5, 0.05) == pytest.approx(chi, rel=1e-9)


def test_correlation_depth_scales_of_tanh():
    variances = (0.6, 0.9, 1.2, 1.5, 2.1, 2.5, 3.2, 4.0)
    found = [
        6 * mean_field.correlation_depth_scale("tanh", sigma_w2, 0.05) for sigma_w2 in variances
    ]
    np.testing.assert_allclose(found, [8.9, 17.3, 35.7, 94.7, 116, 70.8, 50.7, 41.9], rtol=5e-3)
