"""Training in 4 bits: what is random, what is measured of it, and what stays as it is."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from research.training.program import make_program

from ..builders import make_hparams, make_program_config
from .inspecting import inspect_network
from .programs import make_data

SMALL = {"precision": "float4_e2m1", "optimizer": "sgd", "depth": 2, "width": 8}


def train(seed=0, **changes):
    """The losses of three steps, and the program's data."""
    spec = make_program_config(**SMALL | changes)
    program = make_program(spec)
    hp = make_hparams(spec, {"seed": seed, "optimizer.learning_rate": 0.5})
    _, rows = program.chunk(program.init(hp), hp, make_data(), np.int32(0), np.int32(3))
    return np.asarray(rows["train_loss"])[0, :3]


def test_the_first_loss_is_rounded_to_nearest_and_gradients_at_random():
    stochastic = train()
    nearest = train(stochastic_gradients=False)
    exact = train(precision="float32")
    assert stochastic[0] == nearest[0] != exact[0]
    assert stochastic[2] != nearest[2]
    assert_allclose(stochastic, exact, rtol=0.2)
    assert_array_equal(stochastic, train())


def test_the_noise_and_the_bias_of_a_gradient_are_those_of_the_format():
    found, _ = inspect_network("quantization_noise", **SMALL)
    assert 0 < found["quantization_noise"] < found["exact_gradient_norm"]
    assert 0 < found["quantization_bias"] < found["exact_gradient_norm"]
    noise_ratio = found["quantization_noise"] / found["exact_gradient_norm"]
    isotropic = 1 / (1 + noise_ratio**2)
    assert isotropic - 0.1 < found["noisy_step_share"] <= 1.001


@pytest.mark.slow
def test_rounding_to_nearest_has_no_noise():
    found, _ = inspect_network("quantization_noise", stochastic_gradients=False, **SMALL)
    assert_allclose(found["quantization_noise"], 0, atol=1e-6)
    assert_allclose(found["noisy_step_share"], 1, rtol=1e-5)
