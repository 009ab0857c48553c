"""What random masks must satisfy."""

import numpy as np


def assert_frequency(outcomes, probability):
    """Checks that the mean of independent zeros and ones is within 4 standard errors."""
    assert set(np.unique(outcomes)) <= {0, 1}
    variance = probability * (1 - probability)
    standard_error = np.sqrt(variance / outcomes.size)
    difference = np.mean(outcomes) - probability
    assert abs(difference) <= 4 * standard_error


def assert_mean(samples, expected):
    """Checks that the mean over the first axis is within 4 standard errors, element by element."""
    mean = np.mean(samples, axis=0)
    standard_error = np.std(samples, axis=0) / np.sqrt(len(samples))
    assert np.all(np.abs(mean - expected) <= 4 * standard_error)
