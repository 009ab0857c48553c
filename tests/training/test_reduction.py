"""The results of two devices that share a batch are combined into those of the whole batch."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from research.parallel.mesh import Layout, map_runs
from research.training.reduction import StepResults, all_reduce_step

TWO_DEVICES = Layout("map", 2, "batch")
SIZES = np.array([0, 1e-35, 1e-25, 1, 1e25, 1e36, np.inf, np.nan], np.float32)
# What the whole batch has, times the value that both devices have.
FACTORS = {"signal_grad": 2**0.5, "activation_rms": 1.0, "activation_mean": 1.0}


@pytest.fixture
def combined():
    """The combined results of one run, whose parts are the same on both devices."""

    def combine_on_device(number):
        profile = dict.fromkeys(FACTORS, jnp.asarray(SIZES))
        return all_reduce_step(StepResults({"weights": number}, {"loss": number}, profile))

    combine = map_runs(TWO_DEVICES, combine_on_device, num_mapped=1)
    return combine(jnp.float32([2.0]))


def test_gradients_are_summed_and_means_averaged(combined):
    assert combined.grads["weights"][0] == 4
    assert combined.means["loss"][0] == 2


@pytest.mark.parametrize("name", FACTORS)
def test_norms_are_right_over_the_whole_range_of_the_format(combined, name):
    assert_allclose(combined.profile[name][0], FACTORS[name] * SIZES, 1e-6)
