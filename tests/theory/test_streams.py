"""Products of mixing matrices: doubly stochastic ones and random ones."""

import numpy as np
import pytest
from pytest import approx

from research.theory.streams import composite_gain, random_mixing_growth

GENERATOR = np.random.default_rng(0)


def doubly_stochastic(count):
    """Matrices that are means of random permutations (Birkhoff)."""
    matrices = []
    for _ in range(count):
        weights = GENERATOR.dirichlet(np.ones(5))
        permutations = [np.eye(4)[GENERATOR.permutation(4)] for _ in weights]
        matrices.append(np.tensordot(weights, permutations, axes=1))
    return np.array(matrices)


def test_doubly_stochastic_mixing_has_gain_1_at_any_depth():
    gain = composite_gain(doubly_stochastic(60))
    for value in (gain.forward, gain.backward, gain.least, gain.spectral):
        assert value == approx(1, rel=1e-12)


def test_the_gain_is_that_of_the_product_in_forward_order():
    first = np.array([[0.0, 2.0], [0.0, 0.0]])
    second = np.array([[1.0, 0.0], [-1.0, 0.0]])
    gain = composite_gain(np.array([first, second]))  # [[0, 2], [0, -2]]
    assert gain.forward == 2
    assert gain.backward == 4
    assert gain.least == 0
    assert gain.spectral == approx(8**0.5)


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_random_mixing_grows_by_the_factor_of_the_formula(noise):
    start = np.full((20_000, 4, 1), 0.5)
    signals = start
    for _ in range(5):
        mixing = np.eye(4) + noise * GENERATOR.standard_normal((20_000, 4, 4))
        signals = mixing @ signals
    squares = np.mean(np.sum(signals**2, axis=(1, 2)))
    assert squares == approx(random_mixing_growth(4, noise) ** 5, rel=0.05)
