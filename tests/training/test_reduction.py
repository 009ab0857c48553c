"""What devices that share a batch measured is combined into the measures of the whole batch."""

import jax.numpy as jnp
import numpy as np
import pytest

from research.parallel.mesh import Layout, map_runs
from research.training.reduction import all_reduce_step

SHARED = Layout("map", 2, "batch")
# From parts with the same norm, root mean square or mean on each of two devices.
RATIOS = {"signal_grad": 2**0.5, "activation_rms": 1.0, "activation_mean": 1.0}
SIZES = np.array([0, 1e-35, 1e-25, 1, 1e25, 1e36, np.inf, np.nan], np.float32)


@pytest.fixture
def reduced():
    """Gradients, means and profile of one run whose parts are the same on both devices."""

    def reduce_parts(number):
        profile = dict.fromkeys(RATIOS, jnp.asarray(SIZES))
        return all_reduce_step({"weights": number}, number, profile)

    reduce_runs = map_runs(SHARED, reduce_parts, num_mapped=1)
    return reduce_runs(jnp.float32([2.0]))


def test_gradients_are_summed_and_means_averaged(reduced):
    grads, mean, _ = reduced
    assert grads["weights"][0] == 4
    assert mean[0] == 2


@pytest.mark.parametrize("name", RATIOS)
def test_norms_are_right_over_the_whole_range_of_the_format(reduced, name):
    _, _, profile = reduced
    np.testing.assert_allclose(profile[name][0], RATIOS[name] * SIZES, 1e-6)
