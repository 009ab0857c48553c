"""Attention with random weights against softmaxes of random scores in NumPy."""

import math

import numpy as np
import pytest
from pytest import approx

from research.theory.attention import attention_entropy, initial_score_variance

SAMPLES = 4000


def sample_entropy(length, variance):
    generator = np.random.default_rng(0)
    scores = math.sqrt(variance) * generator.standard_normal((SAMPLES, length))
    weights = np.exp(scores)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.mean(-np.sum(weights * np.log(weights), axis=1))


@pytest.mark.parametrize(
    "length, variance",
    [
        (16, 0.25),
        (32, 0.0),
        (32, 1.0),
        (256, 1.0),
        (256, 2.0),
    ],
)
def test_the_entropy_of_random_scores(length, variance):
    """The next order is of the size of the square of the correction, about (e^{s²}·s²/T)²."""
    expected = attention_entropy(length, variance)
    assert sample_entropy(length, variance) == approx(expected, abs=0.02)


def test_the_variance_of_a_score():
    generator = np.random.default_rng(0)
    width = 64
    tokens = 0.7 * generator.standard_normal((2, width))
    scores = []
    for _ in range(2000):
        query = generator.standard_normal((width, width)) * math.sqrt(2 / width)
        key = generator.standard_normal((width, width)) * math.sqrt(0.5 / width)
        score = (tokens[0] @ query) @ (tokens[1] @ key) / math.sqrt(width)
        scores.append(score)
    squares = np.mean(tokens**2, axis=1)
    expected = initial_score_variance(1.0, 2.0, 0.5) * squares[0] * squares[1]
    assert np.var(scores) == approx(expected, rel=0.1)
