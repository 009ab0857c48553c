"""Updates below half a unit in the last place: lost by rounding to nearest, kept in the mean by stochastic rounding."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from research.training.program import make_program
from research.training.rounding import round_stochastically

UNIT = 2.0**-7  # of bfloat16 at 1


def test_each_number_goes_to_one_of_its_neighbours_with_the_right_probability():
    """300,000 draws a number: a standard deviation of at most 0.0009."""
    for x in (1 + 0.25 * UNIT, -1 - 0.9 * UNIT, 3e-39 + 0.5 * 2.0**-133, 1.5):
        wide = np.float32(x)
        drawn = np.asarray(round_stochastically(jnp.full(300_000, wide), jax.random.key(0))).astype(
            np.float64
        )
        bits = wide.view(np.uint32) & np.uint32(0xFFFF0000)
        ends = [
            np.array([b], np.uint32).view(np.float32)[0].astype(float)
            for b in (bits, bits + np.uint32(0x10000))
        ]
        assert set(np.unique(drawn)) <= set(ends)
        expected = (float(wide) - ends[0]) / (ends[1] - ends[0])
        assert np.mean(drawn == ends[1]) == pytest.approx(expected, abs=0.004)


def test_numbers_of_bfloat16_stay_and_so_does_what_is_not_finite():
    """All 65,536 patterns but signalling NaN, which the cut would leave as they are too."""
    x = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    rounded = np.asarray(
        round_stochastically(
            jnp.asarray(x).view(jnp.bfloat16).astype(jnp.float32), jax.random.key(1)
        )
    )
    number = np.abs(x.astype(np.float32)) >= np.float32(
        2.0**-126
    )  # subnormal ones may be flushed on the way
    kept = np.isnan(x.astype(np.float32)) | ~number | (rounded.view(np.uint16) == x.view(np.uint16))
    assert kept.all() and np.isnan(rounded[np.isnan(x.astype(np.float32))].astype(np.float32)).all()


@pytest.mark.parametrize("stochastic", [False, True])
def test_only_stochastic_rounding_keeps_small_updates(
    make_spec, make_numbers, make_data, train, distance, stochastic
):
    """At a learning rate that moves no weight by half a unit in the last place."""
    numbers = make_numbers({"optimizer.learning_rate": 1e-6})
    how = {"optimizer": "sgd", "level": "off", "depth": 1, "bias": False}
    spec = make_spec(precision="bfloat16", stochastic_rounding=stochastic, **how)
    before = make_program(spec).init(numbers)
    (after, _) = train(spec, numbers, make_data(), (16,))
    moved = distance(after.params, before.params)
    assert (moved > 0) == stochastic


def test_the_key_decides(make_spec):
    x = jnp.full(1000, 1 + 0.5 * UNIT, jnp.float32)
    drawn = [np.asarray(round_stochastically(x, jax.random.key(seed))) for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
