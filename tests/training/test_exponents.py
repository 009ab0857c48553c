"""Exponents of a step's gradients: where they come from, and what those in float32 foretell of other formats."""

import dataclasses

import jax
import numpy as np
import pytest

from research.theory.formats import (
    BINS,
    LOWEST,
    gauges_from_counts,
    layerwise_underflow,
    log_mean_square,
)
from research.training.precision import POLICIES, scope
from research.training.program import make_program

# The gradient halves in two layers, the forward signal keeps its size: layer by layer it leaves the format's range.
SHRINKING = {"init": "gaussian", "activation": "relu", "depth": 24, "width": 256, "batch_size": 24}
NUMBERS = {"init.sigma_w": 1.0, "init.sigma_b": 0.5}


@pytest.fixture(scope="module")
def count(make_spec, make_numbers, make_data):
    """The counts of the first step [N(+1), bins], and what gives the profile of the step itself; of all ``seeds``."""

    def counted(precision, scale=1.0, seeds=None, **changes):
        with scope(precision):
            dtype = POLICIES[precision].accumulation
            numbers = (
                NUMBERS
                | {"precision.loss_scale": scale}
                | ({"seed": range(seeds)} if seeds else {})
            )
            hp = make_numbers(numbers, runs=seeds or 1, dtype=dtype)
            program = make_program(make_spec(precision=precision, loss_scaling="static", **changes))
            state = program.init(hp)
            data = make_data()
            found = jax.tree.map(
                lambda counts: np.asarray(counts)[slice(None) if seeds else 0],
                program.exponents(state, hp, data),
            )
            return found, lambda: program.chunk(state, hp, data, np.int32(0), np.int32(1))[1][
                "profile"
            ]

    return counted


# At what scale the range ends in the middle of the network, and how many networks are averaged over: in one, a layer
# holds a few hundred independent numbers, and its fraction is good to a few percent.
LOSING = {
    "float16": (2.0**-10, 16),
    "mixed_float16": (2.0**-8, 16),
    "float8_e5m2": (1.0, 32),
    "float8_e4m3": (2.0**6, 32),
}


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "float16" else pytest.param(kind, marks=pytest.mark.slow) for kind in LOSING],
)
def test_float32_foretells_what_each_layer_loses(count, kind):
    """In layers that lose nothing, some, and nearly all of their gradient."""
    scale, networks = LOSING[kind]
    formats = POLICIES[kind].compute, POLICIES[kind].narrowest
    gauges = gauges_from_counts(count(kind, scale, networks, **SHRINKING)[0], *formats)
    each = [
        layerwise_underflow(rows, formats[1], scale) for rows in gauges["signal_exponent_float32"]
    ]
    foretold = np.mean(each, axis=0)
    lost = gauges["signal_lost"].mean(0)
    inner = (
        slice(0, -1) if kind.startswith("float8") else slice(None)
    )  # the head reads no 8-bit numbers
    np.testing.assert_allclose(lost[inner], foretold[inner], atol=0.02)
    assert foretold[-1] < 0.05 and foretold[0] > 0.9 and np.any((foretold > 0.1) & (foretold < 0.5))


def squares(counts):
    """Ln of the mean square, to a few percent."""
    return log_mean_square(counts[:, :BINS] / counts.sum(-1, keepdims=True))


@pytest.mark.parametrize("kind", ["mlp", pytest.param("rnn", marks=pytest.mark.slow)])
def test_what_is_counted_is_what_the_step_measures(count, kind):
    """The norms from the histogram are the gauges' norms, up to one factor for all: the mantissas' mean square."""
    sizes = {"kind": kind, "depth": 5} | ({"init": "lecun"} if kind == "rnn" else {})
    found, step = count("float32", width=64, **sizes)
    assert set(found) == {"run"}
    profile = {name: np.asarray(values[0, 0]) for name, values in step().items()}
    for name, gauge in (("signal", "signal_grad"), ("grad", "grad_norm")):
        counts = found["run"][name]
        elements = counts.sum(-1)
        with np.errstate(divide="ignore"):
            measured = 2 * np.log(profile[gauge]) - np.log(elements)
        difference = (squares(counts) - measured)[measured > -np.inf]
        np.testing.assert_allclose(difference, -np.log(7 / 3), atol=0.35)
    assert np.all(found["run"]["signal"].sum(-1) == 8 * 64)


def test_parameters_are_counted_layer_by_layer(count):
    found, _ = count("float32", width=64, depth=5)
    np.testing.assert_array_equal(found["run"]["grad"].sum(-1), np.full(5, 64 * 64 + 64))


def test_the_loss_scale_shifts_the_exponents_and_the_exact_ones_stay(count):
    """By whole bins, where nothing leaves the range."""
    sizes = {"depth": 2, "activation": "tanh"}
    one, other = (count("mixed_float16", scale, **sizes)[0] for scale in (2.0**8, 2.0**12))
    jax.tree.map(np.testing.assert_array_equal, one["float32"], other["float32"])
    shifted = np.roll(one["run"]["signal"][:, :BINS], 4, axis=-1)
    top = slice(
        -10 - LOWEST, None
    )  # far from what is subnormal, rounding is the same at each scale
    np.testing.assert_array_equal(shifted[:, top], other["run"]["signal"][:, top.start : BINS])


def test_counting_leaves_the_state_as_it_is(make_spec, make_numbers, make_data, assert_equal):
    """And is that of the batch and the random numbers of the step that comes next: the same at the same step."""
    program = make_program(make_spec(dropout=True, noisy=True))
    hp = make_numbers()
    data = make_data()
    state = program.init(hp)
    first, again = (program.exponents(state, hp, data) for _ in range(2))
    assert_equal(first, again)
    later = program.exponents(dataclasses.replace(state, step=state.step + 1), hp, data)
    assert not np.array_equal(later["run"]["signal"], first["run"]["signal"])
