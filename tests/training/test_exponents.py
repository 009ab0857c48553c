"""Exponents of a step's gradients, and what those in float32 predict for other formats."""

import dataclasses

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from research.config.number_formats import POLICIES
from research.models.block_rounding import round_in_blocks
from research.theory.formats import (
    BINS,
    LOWEST,
    gauges_from_counts,
    layerwise_underflow,
    log_mean_square,
)
from research.training.precision import precision_context
from research.training.program import make_program

from ..builders import make_hparams, make_program_config
from .programs import assert_equal, make_data


def make_spec(precision="float32", **changes):
    settings = {"precision": precision, "loss_scaling": "static"} | changes
    return make_program_config(**settings)


def count_exponents(
    spec,
    *,
    loss_scale=1.0,
    seeds=(0,),
):
    """The counts of the first step, [M, N(+1), bins].

    Args:
        spec: the program.
        loss_scale: factor on the loss.
        seeds: the seeds of the M runs.
    """
    with precision_context(spec.precision.kind.name):
        program = make_program(spec)
        hp = make_hp(spec, loss_scale, seeds)
        counts = program.exponents(program.init(hp), hp, make_data())
        return jax.tree.map(np.asarray, counts)


def make_hp(
    spec,
    loss_scale,
    seeds,
):
    numbers = {"precision.loss_scale": loss_scale, "seed": list(seeds), "init.sigma_b": 0.5}
    return make_hparams(spec, numbers, runs=len(seeds))


# The gradient halves in two layers while the forward signal keeps its size: layer by layer, the
# gradient leaves the range of the format.
SHRINKING = {"init": "gaussian", "activation": "relu", "depth": 24, "width": 256, "batch_size": 24}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "loss_scale", "networks"),
    # With this scale, the range of the format ends in the middle of the network. A layer holds a
    # few hundred independent numbers, so the fractions of one network are good to a few percent.
    [
        ("float16", 2.0**-10, 16),
        pytest.param("mixed_float16", 2.0**-8, 16, marks=pytest.mark.slow),
        pytest.param("float8_e5m2", 1.0, 32, marks=pytest.mark.slow),
        pytest.param("float8_e4m3", 2.0**6, 32, marks=pytest.mark.slow),
    ],
)
def test_float32_predicts_what_each_layer_loses(
    precision,
    loss_scale,
    networks,
):
    """In layers that lose nothing, some, and nearly all of their gradient."""
    policy = POLICIES[precision]
    spec = make_spec(precision, **SHRINKING)
    counts = count_exponents(spec, loss_scale=loss_scale, seeds=range(networks))
    gauges = gauges_from_counts(counts, policy.compute, policy.narrowest)
    predictions = []
    for histograms in gauges["signal_exponent_float32"]:
        predictions.append(layerwise_underflow(histograms, policy.narrowest, loss_scale))
    predicted = np.mean(predictions, axis=0)
    lost = gauges["signal_lost"].mean(0)
    if policy.rounding:  # the head reads no numbers in 8 bits
        assert_allclose(lost[:-1], predicted[:-1], atol=0.02)
    else:
        assert_allclose(lost, predicted, atol=0.02)
    assert predicted[-1] < 0.05
    assert predicted[0] > 0.9
    assert np.any((predicted > 0.1) & (predicted < 0.5))


def log_mean_squares(counts):
    """Ln of the mean square of the counted numbers, to a few percent."""
    return log_mean_square(counts[:, :BINS] / counts.sum(-1, keepdims=True))


@pytest.mark.parametrize("kind", ["mlp", pytest.param("rnn", marks=pytest.mark.slow)])
def test_the_histogram_has_the_norms_that_the_step_measures(kind):
    """Up to one factor for all: the mean square of the mantissas."""
    spec = make_spec(kind=kind, depth=5, width=64)
    program = make_program(spec)
    hp = make_hp(spec, 1.0, (0,))
    data = make_data()
    counts = count_exponents(spec)
    _, rows = program.chunk(program.init(hp), hp, data, np.int32(0), np.int32(1))
    assert set(counts) == {"run"}
    for name, gauge in (("signal", "signal_grad"), ("grad", "grad_norm")):
        gauge_counts = counts["run"][name][0]
        elements = gauge_counts.sum(-1)
        with np.errstate(divide="ignore"):
            norms = np.asarray(rows["profile"][gauge][0, 0])
            measured = 2 * np.log(norms) - np.log(elements)
        difference = (log_mean_squares(gauge_counts) - measured)[measured > -np.inf]
        assert_allclose(difference, -np.log(7 / 3), atol=0.35)
    assert np.all(counts["run"]["signal"].sum(-1) == 8 * 64)


def test_parameters_are_counted_layer_by_layer():
    counts = count_exponents(make_spec(depth=5, width=64))
    counted = {name: of_layers[0].sum(-1) for name, of_layers in counts["run"].items()}
    assert_array_equal(counted["grad"], np.full(5, 64 * 64 + 64))
    assert_array_equal(counted["weight"], np.full(5, 64 * 64))
    assert_array_equal(counted["activation"], np.full(5, 8 * 64))


def test_weights_and_activations_that_four_bits_turn_to_zero_are_counted():
    spec = make_spec("float4_e2m1", depth=3, width=32)
    policy = POLICIES["float4_e2m1"]
    counts = count_exponents(spec)
    gauges = gauges_from_counts(counts, policy.compute, policy.narrowest)
    params = make_program(spec).init(make_hp(spec, 1.0, (0,))).params
    kernels = params["stages"][0]["branch"]["weights"][0]["kernel"][0]
    block_scale = spec.architecture.block_scale
    assert block_scale is not None
    rounded = round_in_blocks(np.swapaxes(kernels, 1, 2), block_scale)
    expected = np.mean(np.asarray(rounded) == 0, axis=(1, 2))
    assert_allclose(gauges["weight_lost"][0], expected, rtol=1e-5)
    assert np.all((gauges["activation_lost"] > 0.01) & (gauges["activation_lost"] < 0.3))
    assert np.all(gauges["activation_subnormal"] == 0)


def test_the_loss_scale_shifts_exponents_of_the_run_but_not_those_in_float32():
    """By whole bins, where nothing leaves the range."""
    spec = make_spec("mixed_float16", depth=2, activation="tanh")
    small = count_exponents(spec, loss_scale=2.0**8)
    large = count_exponents(spec, loss_scale=2.0**12)
    jax.tree.map(assert_array_equal, small["float32"], large["float32"])
    small_signal = small["run"]["signal"][0, :, :BINS]
    large_signal = large["run"]["signal"][0, :, :BINS]
    shifted = np.roll(small_signal, 4, axis=-1)
    far_from_subnormal = slice(-10 - LOWEST, None)  # there, rounding is the same at each scale
    assert_array_equal(shifted[:, far_from_subnormal], large_signal[:, far_from_subnormal])


def test_counting_uses_random_numbers_of_the_next_step_and_leaves_the_state():
    spec = make_program_config(dropout=0.3, input_noise=0.2)
    program = make_program(spec)
    hp = make_hparams(spec, {"model.dropout": 0.3, "train.input_noise": 0.2})
    data = make_data()
    state = program.init(hp)
    first = program.exponents(state, hp, data)
    again = program.exponents(state, hp, data)
    assert_equal(first, again)
    next_state = dataclasses.replace(state, step=state.step + 1)
    later = program.exponents(next_state, hp, data)
    assert not np.array_equal(later["run"]["signal"], first["run"]["signal"])
