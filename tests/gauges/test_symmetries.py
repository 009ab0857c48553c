"""Products of weights with their gradients, and the balance of units, against loops in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from research.gauges.symmetries import balance, layer_cosines, scale_derivatives, unit_cosines
from research.training.precision import scope

GENERATOR = np.random.default_rng(0)


@pytest.fixture
def network():
    """Two stages of blocks, 3 of two layers and 2 of one: weights, gradients, and of each layer its pairs of them."""
    shapes = [[[(3, 4, 5)], [(3, 5, 4), (3, 3, 3, 2, 4)]], [[(2, 6, 3)]]]

    def draw(shape):
        return GENERATOR.standard_normal(shape)

    weights, gradients = (
        [[[draw(s) for s in part] for part in stage] for stage in shapes] for _ in range(2)
    )
    pairs = [
        [(w[n], g[n]) for w, g in zip(weights[stage][part], gradients[stage][part], strict=True)]
        for stage, blocks in ((0, 3), (1, 2))
        for n in range(blocks)
        for part in range(len(shapes[stage]))
    ]

    def on_device(tree):
        return [[[jnp.asarray(leaf) for leaf in part] for part in stage] for stage in tree]

    with scope("float64"):
        yield on_device(weights), on_device(gradients), pairs


def cosine(a, b):
    return np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)


def test_products_and_cosines_are_those_of_a_loop(network):
    weights, gradients, pairs = network
    flat = [
        [np.concatenate([each[n].ravel() for each in layer]) for n in (0, 1)] for layer in pairs
    ]
    np.testing.assert_allclose(
        scale_derivatives(weights, gradients), [np.sum(w * g) for w, g in flat], rtol=1e-12
    )
    np.testing.assert_allclose(
        layer_cosines(weights, gradients), [cosine(w, g) for w, g in flat], rtol=1e-12
    )
    units = [
        max(abs(cosine(w[..., j], g[..., j])) for w, g in layer for j in range(w.shape[-1]))
        for layer in pairs
    ]
    np.testing.assert_allclose(unit_cosines(weights, gradients), units, rtol=1e-12)


def test_cosines_of_a_vanishing_gradient_are_right_and_of_none_are_zero():
    weights = [[[jnp.ones((2, 3, 4))]]]
    for size, expected in ((1e-30, 1.0), (0.0, 0.0)):
        gradients = [[[jnp.full((2, 3, 4), size)]]]
        for measure in (layer_cosines, unit_cosines):
            np.testing.assert_allclose(measure(weights, gradients), [expected] * 2, rtol=1e-6)


def test_the_balance_of_a_unit_is_what_enters_less_what_leaves():
    embed, layers, head, biases = (
        GENERATOR.standard_normal(s) for s in ((3, 4), (2, 4, 4), (4, 5), (3, 4))
    )
    into, out = [embed, *layers], [*layers, head]
    expected = [
        [np.sum(into[n][:, j] ** 2) + biases[n, j] ** 2 - np.sum(out[n][j] ** 2) for j in range(4)]
        for n in range(3)
    ]
    with scope("float64"):
        arrays = jnp.asarray(embed), jnp.asarray(layers), jnp.asarray(head)
        np.testing.assert_allclose(balance(*arrays, jnp.asarray(biases)), expected, rtol=1e-12)
        np.testing.assert_allclose(balance(*arrays), np.asarray(expected) - biases**2, rtol=1e-12)
