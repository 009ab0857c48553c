"""What noise costs a step of gradient descent, against random steps on a quadratic."""

import math

import numpy as np
import pytest
from pytest import approx

from research.theory.quantization import THRESHOLD, step_share, stopping_ratio


def mean_improvement(rate, gradient, noise):
    """By how much steps lower ½‖θ‖² from θ = g, in the mean over the rows of the noise."""
    after = gradient - rate * (gradient + noise)
    squared_before = np.sum(gradient**2)
    squared_after = np.sum(after**2, axis=1)
    return (squared_before - np.mean(squared_after)) / 2


def draw_noise(draw, num_steps, gradient):
    """Noise whose norm is about that of the gradient, a row for each step."""
    width = len(gradient)
    return draw((num_steps, width)) * np.linalg.norm(gradient) / math.sqrt(width)


@pytest.mark.parametrize("ratio", [0.2, 1 / math.sqrt(3), 1.0, 2.0])
def test_the_best_of_noisy_steps_improves_by_its_share(ratio):
    draw = np.random.default_rng(0).standard_normal
    gradient = draw(50)
    noise = ratio * draw_noise(draw, 4000, gradient)
    rates = np.linspace(0, 1.2, 241)
    best = max(mean_improvement(rate, gradient, noise) for rate in rates)
    without = max(mean_improvement(rate, gradient, 0 * noise) for rate in rates)
    assert best / without == approx(step_share(ratio), rel=0.02)


def test_the_share_falls_fastest_at_the_threshold():
    ratios = np.linspace(0.01, 3, 3000)
    slopes = np.gradient(step_share(ratios), ratios)
    steepest = ratios[np.argmin(slopes)]
    assert 1 / steepest == approx(THRESHOLD, rel=1e-2)
    assert step_share(1 / THRESHOLD) == approx(0.75)


@pytest.mark.parametrize(("rate", "expected"), [(1.0, 1.0), (1.5, math.sqrt(3)), (0.02, 0.1005)])
def test_steps_of_a_fixed_size_stop_at_their_ratio(rate, expected):
    ratio = stopping_ratio(rate, 1.0)
    assert ratio == approx(expected, rel=1e-3)
    draw = np.random.default_rng(0).standard_normal
    gradient = draw(50)
    noise = draw_noise(draw, 20_000, gradient) / ratio
    scale = np.sum(gradient**2) * rate
    assert abs(mean_improvement(rate, gradient, noise)) < 0.02 * scale / ratio
    assert stopping_ratio(2.0, 1.0) == math.inf
