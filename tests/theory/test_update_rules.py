"""Laws of update rules against simulations in NumPy."""

import math

import numpy as np
import pytest
from pytest import approx

from research.theory.update_rules import (
    adam_edge,
    adam_update_share,
    equilibrium_ratio,
    first_hidden_layer,
    momentum_edge,
    nesterov_edge,
    settling_steps,
)


def descend_on_a_sphere(weights, rate, decay, steps):
    """Gradient descent with weight decay on gradients of norm 1/‖w‖ that are orthogonal to w."""
    generator = np.random.default_rng(0)
    norms = []
    ratios = []
    for _ in range(steps):
        length = np.linalg.norm(weights)
        draw = generator.standard_normal(weights.shape)
        tangent = draw - (draw @ weights) / length**2 * weights
        gradient = tangent / np.linalg.norm(tangent) / length
        norms.append(length)
        ratios.append(np.linalg.norm(gradient) / length)
        weights = weights - rate * gradient - rate * decay * weights
    return np.array(norms), np.array(ratios)


@pytest.mark.parametrize("rate, decay", [(0.1, 0.05), (0.03, 0.05), (0.5, 0.5)])
def test_weight_decay_settles_at_the_ratio_of_the_formula(rate, decay):
    start = np.full(50, 0.3)
    steps = int(20 * settling_steps(rate, decay)) + 10
    _, ratios = descend_on_a_sphere(start, rate, decay, steps)
    assert ratios[-1] == approx(equilibrium_ratio(rate, decay), rel=1e-3)


def test_the_ratio_is_the_papers_where_a_step_shrinks_the_weights_little():
    assert equilibrium_ratio(0.03, 0.05) == approx(math.sqrt(2 * 0.05 / 0.03), rel=1e-3)


def test_the_fourth_power_of_the_norm_comes_e_times_closer_in_the_settling_time():
    rate = 0.02
    decay = 0.05
    steps = round(settling_steps(rate, decay))
    norms, _ = descend_on_a_sphere(np.full(50, 0.3), rate, decay, 20 * steps)
    distances = np.abs(norms**4 - norms[-1] ** 4)
    assert distances[steps] / distances[0] == approx(math.exp(-1), rel=0.02)


def adam_on_a_constant_gradient(gradient, epsilon, steps):
    """The update over the learning rate at the last step (Kingma & Ba 2015, Algorithm 1)."""
    mean = 0.0
    square = 0.0
    update = 0.0
    for step in range(1, steps + 1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        corrected_mean = mean / (1 - 0.9**step)
        corrected_square = square / (1 - 0.999**step)
        update = corrected_mean / (math.sqrt(corrected_square) + epsilon)
    return update


@pytest.mark.parametrize("gradient", [1e-12, 1e-8, -1e-8, 1e-4])
def test_adams_update_of_a_constant_gradient(gradient):
    update = adam_on_a_constant_gradient(gradient, 1e-8, steps=7)
    assert abs(update) == approx(float(adam_update_share(gradient, 1e-8)), rel=1e-12)


def test_adam_moves_half_as_far_where_the_gradient_is_epsilon():
    assert adam_update_share([-1e-8, 1e-8], 1e-8) == approx([0.5, 0.5])


@pytest.mark.parametrize(
    "gradients, layer",
    [
        ([1e-12, 1e-9, 1e-7, 1e-3], 1),
        ([1e-12, 1e-7, 1e-9, 1e-3], 0),
        ([1e-3, 1e-9], None),
        ([1e-12, 1e-11], 1),
    ],
)
def test_the_layer_from_which_down_gradients_are_below_epsilon(gradients, layer):
    assert first_hidden_layer(gradients, 1e-8) == layer


def averaged_descent(curvature, rate, beta1):
    """|x| after 4000 steps of x ← x − γm with m ← β₁m + (1 − β₁)·s·x."""
    x = 1.0
    mean = 0.0
    for _ in range(4000):
        mean = beta1 * mean + (1 - beta1) * curvature * x
        x = x - rate * mean
    return abs(x)


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
def test_beyond_adams_edge_a_quadratic_diverges(beta1):
    edge = adam_edge(0.01, beta1)
    assert averaged_descent(0.99 * edge, 0.01, beta1) < 1
    assert averaged_descent(1.01 * edge, 0.01, beta1) > 1e3


def heavy_ball(curvature, rate, momentum, steps=2000):
    """How far from 0 gradient descent with momentum ends on a quadratic, from 1."""
    x = 1.0
    velocity = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + curvature * x
        x = x - rate * velocity
    return abs(x)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_beyond_the_edge_of_descent_a_quadratic_diverges(momentum):
    edge = momentum_edge(0.01, momentum)
    assert heavy_ball(0.99 * edge, 0.01, momentum) < 1
    assert heavy_ball(1.01 * edge, 0.01, momentum) > 10


def nesterov_descent(curvature, rate, momentum, steps=2000):
    """The same with Nesterov's momentum."""
    x = 1.0
    velocity = 0.0
    for _ in range(steps):
        gradient = curvature * x
        velocity = momentum * velocity + gradient
        x = x - rate * (gradient + momentum * velocity)
    return abs(x)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_beyond_nesterovs_edge_a_quadratic_diverges(momentum):
    edge = nesterov_edge(0.01, momentum)
    assert nesterov_descent(0.99 * edge, 0.01, momentum) < 1
    assert nesterov_descent(1.01 * edge, 0.01, momentum) > 10
