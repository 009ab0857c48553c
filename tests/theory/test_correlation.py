"""The cosine between two inputs' gradients in wide ReLU networks: closed forms and NumPy."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from pytest import approx

from research.theory.profiles import correlation_profile

PLAIN: dict[str, Any] = {"branch_scale": 1.0, "shortcut_scale": 0.0}
RESIDUAL: dict[str, Any] = {"branch_scale": 1.0, "shortcut_scale": 1.0}
WEIGHTED: dict[str, Any] = {"branch_scale": 0.4, "shortcut_scale": 0.9}


def profile(depth, norm="none", q0=1.0, sigma_w2=2.0, **scales):
    return correlation_profile(
        sigma_w2=sigma_w2,
        depth=depth,
        q0=q0,
        norm=norm,
        **scales,
    )


def log_slope(depth, **options):
    """The power of depth with which the first cosine falls from ``depth`` to twice that depth."""
    cosine = profile(depth, **options)[0]
    cosine_at_twice_the_depth = profile(2 * depth, **options)[0]
    return math.log(cosine_at_twice_the_depth / cosine) / math.log(2)


@pytest.mark.parametrize("sigma_w2", [1.0, 2.0, 3.0])  # ReLU is homogeneous
@pytest.mark.parametrize(
    "depth, expected",
    [
        (2, 0.302),
        (4, 0.142),
        (8, 0.050),
        (16, 0.013),
    ],
)
def test_a_plain_network_loses_the_product_of_its_kernels(depth, expected, sigma_w2):
    cosine = profile(depth, sigma_w2=sigma_w2, **PLAIN)[0]
    assert cosine == approx(expected, abs=5e-4)


def test_the_cosine_of_a_plain_network_falls_with_the_third_power_of_depth():
    """Because the signals become alike."""
    assert log_slope(2000, **PLAIN) == approx(-3, abs=0.05)


@pytest.mark.parametrize(
    "depth, expected",
    [
        (2, 0.704),
        (64, 0.636),
    ],
)
def test_branches_scaled_by_depth_preserve_most_of_the_cosine(depth, expected):
    cosine = profile(depth, branch_scale=depth**-0.5, shortcut_scale=1.0)[0]
    assert cosine == approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "depth, expected",
    [
        (2, 0.610),
        (64, 0.079),
    ],
)
def test_the_cosine_with_batch_norm_and_shortcuts(depth, expected):
    cosine = profile(depth, norm="batch", **RESIDUAL)[0]
    assert cosine == approx(expected, abs=5e-4)


def test_batch_norm_with_shortcuts_decays_as_a_power_of_depth():
    expected = -0.5 * math.pi / (math.pi - 1)
    assert log_slope(20_000, norm="batch", **RESIDUAL) == approx(expected, abs=1e-3)


def test_without_shortcuts_batch_norm_halves_the_cosine_in_each_layer():
    cosines = profile(10, norm="batch", **PLAIN)
    layers_above = np.arange(10, -1, -1)
    assert_allclose(cosines, 2.0**-layers_above, rtol=1e-12)


class RandomNetwork:
    """A ReLU network of random weights whose forward pass has seen two orthogonal inputs."""

    def __init__(self, depth, width, sigma_w2, scales, generator):
        self.branch_scale = scales["branch_scale"]
        self.shortcut_scale = scales["shortcut_scale"]
        self.weights = []
        self.gates = []
        inputs = np.linalg.qr(generator.standard_normal((width, 2)))[0]
        h = inputs * math.sqrt(width)
        for _ in range(depth):
            weight = generator.standard_normal((width, width), np.float32)
            weight = weight * math.sqrt(sigma_w2 / width)
            self.weights.append(weight)
            self.gates.append(h > 0)
            branch = weight @ np.maximum(h, 0)
            h = self.shortcut_scale * h + self.branch_scale * branch

    def backward(self, layer, side, cotangents):
        gate = self.gates[layer][:, [side]]
        branch = (self.weights[layer].T @ cotangents) * gate
        return self.shortcut_scale * cotangents + self.branch_scale * branch


@pytest.mark.parametrize("scales", [PLAIN, RESIDUAL, WEIGHTED])
@pytest.mark.parametrize("sigma_w2", [1.0, 2.0])
def test_the_profile_is_that_of_a_wide_random_network(scales, sigma_w2):
    depth = 6
    width = 1000
    generator = np.random.default_rng(0)
    network = RandomNetwork(depth, width, sigma_w2, scales, generator)

    # The cosine of a single cotangent has an uncertainty of 1/√width.
    cotangents = generator.standard_normal((width, 30))
    first = cotangents
    second = cotangents
    cosines = [1.0]
    for layer in reversed(range(depth)):
        first = network.backward(layer, 0, first)
        second = network.backward(layer, 1, second)
        norms = np.linalg.norm(first) * np.linalg.norm(second)
        cosines.append(np.sum(first * second) / norms)

    expected = profile(depth, sigma_w2=sigma_w2, **scales)
    assert_allclose(cosines[::-1], expected, atol=0.05)
