"""How far the gradients of two inputs agree in wide rectifier networks: closed forms, published numbers, NumPy."""

import math
from typing import Any

import numpy as np
import pytest

from research.theory.profiles import correlation_profile

PLAIN: dict[str, Any] = {"branch_scale": 1.0, "shortcut_scale": 0.0}
RESIDUAL: dict[str, Any] = {"branch_scale": 1.0, "shortcut_scale": 1.0}


def profile(depth, norm="none", q0=1.0, sigma_w2=2.0, **scales):
    return correlation_profile(sigma_w2=sigma_w2, depth=depth, q0=q0, norm=norm, **scales)


@pytest.mark.parametrize("depth, expected", [(2, 0.302), (4, 0.142), (8, 0.050), (16, 0.013)])
def test_a_plain_network_loses_the_product_of_its_kernels(depth, expected):
    for sigma_w2 in (1.0, 2.0, 3.0):  # rectifiers are homogeneous
        assert profile(depth, sigma_w2=sigma_w2, **PLAIN)[0] == pytest.approx(expected, abs=5e-4)


def test_inputs_that_become_alike_make_the_tail_a_power_of_three():
    logs = [math.log(profile(depth, **PLAIN)[0]) for depth in (2000, 4000)]
    assert (logs[1] - logs[0]) / math.log(2) == pytest.approx(-3, abs=0.05)


@pytest.mark.parametrize("depth, expected", [(2, 0.704), (64, 0.636)])
def test_branches_scaled_by_depth_keep_a_part(depth, expected):
    found = profile(depth, branch_scale=depth**-0.5, shortcut_scale=1.0)[0]
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("depth, expected", [(2, 0.610), (64, 0.079)])
def test_batch_norm_with_shortcuts_decays_as_a_power_of_depth(depth, expected):
    assert profile(depth, norm="batch", **RESIDUAL)[0] == pytest.approx(expected, abs=5e-4)
    logs = [math.log(profile(depth, norm="batch", **RESIDUAL)[0]) for depth in (20_000, 40_000)]
    assert (logs[1] - logs[0]) / math.log(2) == pytest.approx(
        -0.5 * math.pi / (math.pi - 1), abs=1e-3
    )


def test_without_shortcuts_batch_norm_halves_it_a_layer():
    np.testing.assert_allclose(
        profile(10, norm="batch", **PLAIN), 2.0 ** -np.arange(10, -1, -1), rtol=1e-12
    )


@pytest.mark.parametrize("scales", [PLAIN, RESIDUAL, {"branch_scale": 0.4, "shortcut_scale": 0.9}])
@pytest.mark.parametrize("sigma_w2", [1.0, 2.0])
def test_the_profile_is_that_of_a_wide_random_network(scales, sigma_w2):
    generator = np.random.default_rng(0)
    n = 1000
    depth = 6
    h = np.linalg.qr(generator.standard_normal((n, 2)))[0] * math.sqrt(n)
    gates = []
    weights = []
    for _ in range(depth):
        weights.append(generator.standard_normal((n, n), np.float32) * math.sqrt(sigma_w2 / n))
        gates.append(h > 0)
        h = scales["shortcut_scale"] * h + scales["branch_scale"] * weights[-1] @ np.maximum(h, 0)
    cotangents = generator.standard_normal(
        (n, 30)
    )  # more than one: a single cosine is 1/√n uncertain
    first = second = cotangents
    found = [1.0]
    for gate, weight in zip(gates[::-1], weights[::-1], strict=True):
        first, second = (
            scales["shortcut_scale"] * g + scales["branch_scale"] * (weight.T @ g) * gate[:, [side]]
            for side, g in enumerate((first, second))
        )
        found.append(np.sum(first * second) / np.linalg.norm(first) / np.linalg.norm(second))
    np.testing.assert_allclose(found[::-1], profile(depth, sigma_w2=sigma_w2, **scales), atol=0.05)
