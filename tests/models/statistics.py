"""What random masks must satisfy."""

import numpy as np


def assert_frequency(outcomes, probability):
    """Checks that the mean of independent zeros and ones is within 4 standard errors."""
    assert set(np.unique(outcomes)) <= {0, 1}
    error = np.sqrt(probability * (1 - probability) / outcomes.size)
    assert abs(np.mean(outcomes) - probability) <= 4 * error


def assert_mean(samples, expected):
    """Checks that the mean over the first axis is within 4 standard errors, element by element."""
    error = np.std(samples, axis=0) / np.sqrt(len(samples))
    assert np.all(np.abs(np.mean(samples, axis=0) - expected) <= 4 * error)
