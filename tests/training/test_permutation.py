import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from research.training.permutation import permutation, stable_argsort


# From 1626 numbers on there are two rounds of sorting, from 65,537 numbers on three digits.
@pytest.mark.parametrize("n", [1, 2, 3, 1400, 1626, 70_000])
def test_permutations_are_those_of_jax(n):
    key = jax.random.key(n)
    assert_array_equal(permutation(key, n), jax.random.permutation(key, n))


@pytest.mark.parametrize("n", [1, 2, 1000, 2**11, 2**16 + 1])
def test_equal_keys_keep_their_order(n):
    values = [0, 1, 0xFFFFF, 0x100000, 0x80000000, 0xFFFFFFFF]
    generator = np.random.default_rng(0)
    keys = generator.choice(values, n).astype(np.uint32)
    places = stable_argsort(jnp.asarray(keys))
    assert_array_equal(places, np.argsort(keys, kind="stable"))
