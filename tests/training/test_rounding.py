"""Updates below half a unit in the last place: only stochastic rounding keeps them, in the mean."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from research.training.program import make_program
from research.training.rounding import round_stochastically

from ..builders import make_hparams, make_program_config
from .programs import train

UNIT = 2.0**-7  # of bfloat16 at 1


def neighbours(x):
    """The bfloat16 number that ``x`` is truncated to, and the next one away from zero."""
    truncated = x.view(np.uint32) & np.uint32(0xFFFF0000)
    bits = np.array([truncated, truncated + np.uint32(0x10000)], np.uint32)
    return bits.view(np.float32).astype(np.float64)


@pytest.mark.parametrize(
    "x",
    [
        1 + 0.25 * UNIT,
        -1 - 0.9 * UNIT,
        3e-39 + 0.5 * 2.0**-133,
        1.5,
    ],
)
def test_a_number_becomes_either_neighbour_with_the_right_probability(x):
    """300,000 samples have a standard deviation of at most 0.0009."""
    x = np.float32(x)
    rounded = round_stochastically(jnp.full(300_000, x), jax.random.key(0))
    samples = np.asarray(rounded).astype(np.float64)
    truncated, other = neighbours(x)
    assert set(np.unique(samples)) <= {truncated, other}
    expected = (float(x) - truncated) / (other - truncated)
    assert np.mean(samples == other) == pytest.approx(expected, abs=0.004)


def test_bfloat16_numbers_infinities_and_nans_stay():
    """All 65,536 bit patterns, but subnormal numbers may be flushed to zero."""
    patterns = np.arange(2**16, dtype=np.uint16)
    x = patterns.view(ml_dtypes.bfloat16)
    rounded = round_stochastically(jnp.asarray(x).astype(jnp.float32), jax.random.key(1))
    rounded = np.asarray(rounded)
    x = x.astype(np.float32)
    is_nan = np.isnan(x)
    is_subnormal = np.abs(x) < np.float32(2.0**-126)
    stays = rounded.view(np.uint16) == patterns
    assert np.all(stays | is_nan | is_subnormal)
    assert np.all(np.isnan(rounded[is_nan].astype(np.float32)))


@pytest.mark.parametrize("stochastic", [False, True])
def test_only_stochastic_rounding_keeps_small_updates(distance, stochastic):
    """At a learning rate that moves no weight by half a unit in the last place."""
    spec = make_program_config(
        precision="bfloat16",
        stochastic_rounding=stochastic,
        optimizer="sgd",
        level="off",
        depth=1,
        bias=False,
    )
    hp = make_hparams(spec, {"optimizer.learning_rate": 1e-6})
    before = make_program(spec).init(hp)
    after, _ = train(spec, hp, chunks=(16,))
    has_moved = distance(after.params, before.params) > 0
    assert has_moved == stochastic


def test_the_key_decides():
    x = jnp.full(1000, 1 + 0.5 * UNIT, jnp.float32)
    first = np.asarray(round_stochastically(x, jax.random.key(0)))
    same_key = np.asarray(round_stochastically(x, jax.random.key(0)))
    other_key = np.asarray(round_stochastically(x, jax.random.key(1)))
    assert np.array_equal(first, same_key)
    assert not np.array_equal(first, other_key)
