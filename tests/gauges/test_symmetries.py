"""Products of weights with their gradients, and the balance of units, against loops in NumPy."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from research.gauges.symmetries import balance, layer_cosines, scale_derivatives, unit_cosines
from research.training.precision import precision_context

# Stages of layers of weights: 3 blocks of two layers, the second with two kernels, and 2 blocks of
# one layer.
SHAPES = [
    [
        [(3, 4, 5)],
        [(3, 5, 4), (3, 3, 3, 2, 4)],
    ],
    [
        [(2, 6, 3)],
    ],
]
# The position of each layer in forward order: stage, block, layer of the block.
LAYERS = [
    (0, 0, 0),
    (0, 0, 1),
    (0, 1, 0),
    (0, 1, 1),
    (0, 2, 0),
    (0, 2, 1),
    (1, 0, 0),
    (1, 1, 0),
]


class Kernel(NamedTuple):
    """The weights of one kernel of one layer, and their gradient."""

    weight: np.ndarray
    gradient: np.ndarray


class Network:
    """Random weights and gradients, stacked for the gauges and by layer for loops."""

    def __init__(self):
        generator = np.random.default_rng(0)
        self.weights = draw(SHAPES, generator)
        self.gradients = draw(SHAPES, generator)

    def layers(self):
        for stage, block, layer in LAYERS:
            kernels = []
            weights = self.weights[stage][layer]
            gradients = self.gradients[stage][layer]
            for weight, gradient in zip(weights, gradients, strict=True):
                block_kernel = Kernel(
                    weight=np.asarray(weight[block]),
                    gradient=np.asarray(gradient[block]),
                )
                kernels.append(block_kernel)
            yield kernels


def draw(shapes, generator):
    """Arrays of the shapes in nested lists."""
    if isinstance(shapes, tuple):
        return jnp.asarray(generator.standard_normal(shapes))
    return [draw(each, generator) for each in shapes]


@pytest.fixture
def network():
    with precision_context("float64"):
        yield Network()


def cosine(a, b):
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return np.sum(a * b) / lengths


def test_scale_derivatives_are_those_of_a_loop(network):
    expected = []
    for kernels in network.layers():
        total = 0.0
        for kernel in kernels:
            total += np.sum(kernel.weight * kernel.gradient)
        expected.append(total)
    measured = scale_derivatives(network.weights, network.gradients)
    assert_allclose(measured, expected, rtol=1e-12)


def test_layer_cosines_are_those_of_a_loop(network):
    expected = []
    for kernels in network.layers():
        weights = np.concatenate([kernel.weight.ravel() for kernel in kernels])
        gradients = np.concatenate([kernel.gradient.ravel() for kernel in kernels])
        expected.append(cosine(weights, gradients))
    measured = layer_cosines(network.weights, network.gradients)
    assert_allclose(measured, expected, rtol=1e-12)


def test_unit_cosines_are_those_of_a_loop(network):
    expected = []
    for kernels in network.layers():
        largest = 0.0
        for kernel in kernels:
            for unit in range(kernel.weight.shape[-1]):
                value = cosine(kernel.weight[..., unit], kernel.gradient[..., unit])
                largest = max(largest, abs(value))
        expected.append(largest)
    measured = unit_cosines(network.weights, network.gradients)
    assert_allclose(measured, expected, rtol=1e-12)


@pytest.mark.parametrize("measure", [layer_cosines, unit_cosines])
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1e-30, 1.0),
        (0.0, 0.0),
    ],
)
def test_cosines_of_a_vanishing_gradient_are_right_and_of_none_are_zero(size, expected, measure):
    weights = [[[jnp.ones((2, 3, 4))]]]
    gradients = [[[jnp.full((2, 3, 4), size)]]]
    cosines = measure(weights, gradients)
    assert_allclose(cosines, [expected, expected], rtol=1e-6)


def test_the_balance_of_a_unit_is_what_enters_less_what_leaves():
    generator = np.random.default_rng(0)
    embed = generator.standard_normal((3, 4))
    layers = generator.standard_normal((2, 4, 4))
    head = generator.standard_normal((4, 5))
    biases = generator.standard_normal((3, 4))
    weights = [embed, *layers, head]
    expected = np.zeros((3, 4))
    for n in range(3):
        for unit in range(4):
            incoming = np.sum(weights[n][:, unit] ** 2)
            outgoing = np.sum(weights[n + 1][unit] ** 2)
            expected[n, unit] = incoming - outgoing
    with precision_context("float64"):
        arrays = {
            "embed": jnp.asarray(embed),
            "layers": jnp.asarray(layers),
            "head": jnp.asarray(head),
        }
        without_biases = balance(**arrays)
        with_biases = balance(**arrays, biases=jnp.asarray(biases))
    assert_allclose(without_biases, expected, rtol=1e-12)
    assert_allclose(with_biases, expected + biases**2, rtol=1e-12)
