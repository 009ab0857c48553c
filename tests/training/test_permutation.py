import jax
import numpy as np
import pytest

from research.training.permutation import _places_by_size, permutation


@pytest.mark.parametrize(
    "n", [1, 2, 3, 1400, 1626, 70_000]
)  # from 1626 on in two rounds, from 65,537 on in three digits
def test_permutations_are_those_of_jax(n):
    key = jax.random.key(n)
    np.testing.assert_array_equal(permutation(key, n), jax.random.permutation(key, n))


@pytest.mark.parametrize("n", [1, 2, 1000, 2**11, 2**16 + 1])
def test_equal_keys_keep_their_order(n):
    keys = (
        np.random.default_rng(0)
        .choice([0, 1, 2**20 - 1, 2**20, 2**31, 2**32 - 1], n)
        .astype(np.uint32)
    )
    np.testing.assert_array_equal(
        _places_by_size(jax.numpy.asarray(keys)), np.argsort(keys, kind="stable")
    )
