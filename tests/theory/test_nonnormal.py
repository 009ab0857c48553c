"""Powers of random matrices against their closed form."""

import numpy as np
from numpy.testing import assert_allclose

from research.theory.nonnormal import power_growth


def test_a_normal_matrix_grows_as_its_eigenvalues():
    growth = power_growth(5, spectral_radius=0.9, nonnormality=0.0, width=20)
    assert_allclose(growth, 0.81 ** np.arange(6))


def test_powers_have_the_growth_of_random_triangular_matrices():
    draw = np.random.default_rng(0).standard_normal
    width = 40
    squares = []
    for _ in range(400):
        upper = np.triu(draw((width, width)), 1) / width**0.5
        matrix = 0.5 * np.eye(width) + 1.5 * upper
        powers = [np.linalg.matrix_power(matrix, power) for power in range(7)]
        squares.append([np.sum(power**2) / width for power in powers])
    expected = power_growth(6, spectral_radius=0.5, nonnormality=1.5, width=width)
    assert_allclose(np.mean(squares, axis=0), expected, rtol=0.1)
    assert expected.max() > 2
    long_growth = power_growth(60, spectral_radius=0.5, nonnormality=1.5, width=width)
    assert long_growth[-1] < 1e-3
