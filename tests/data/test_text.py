"""Texts as tokens."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from research.data.text import Vocabulary, make_windows

DTYPES = {256: "uint8", 257: "int32"}  # by the size of the vocabulary


def test_a_character_without_a_token_becomes_the_unknown_token():
    vocabulary = Vocabulary("characters", ("?", "a", "b"))
    assert vocabulary.encode("abcz").tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize(("size", "dtype"), DTYPES.items())
def test_tokens_of_large_vocabularies_have_a_larger_type(size, dtype):
    symbols = tuple(map(chr, range(size)))
    vocabulary = Vocabulary("characters", symbols)
    tokens = vocabulary.encode("".join(symbols))
    assert tokens.dtype == dtype
    assert tokens.tolist() == list(range(size))


def test_windows_do_not_overlap_and_each_has_all_its_targets():
    tokens = np.arange(9)
    windows = make_windows(tokens, 4)
    assert_array_equal(windows.x, tokens[:8].reshape(2, 4))
    assert_array_equal(windows.y, tokens[1:].reshape(2, 4))
    assert len(make_windows(tokens[:8], 4)) == 1
