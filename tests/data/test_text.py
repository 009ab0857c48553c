"""Texts as tokens."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from research.config.data_options import TextData
from research.data.dataset import DatasetInfo, LabeledArrays
from research.data.surprises import report_shared_examples
from research.data.text import (
    LabeledTexts,
    Vocabulary,
    encode_texts,
    make_text_dataset,
    make_vocabulary,
    make_windows,
)

DTYPES = {256: "uint8", 257: "int32"}  # by the size of the vocabulary


def test_a_character_without_a_token_becomes_the_unknown_token():
    vocabulary = Vocabulary("characters", ("?", "a", "b"))
    assert vocabulary.encode("abcz").tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize(
    ("max_symbols", "reason"),
    [(4, "occur fewer than 2 times"), (2, "are not among the 1 most frequent ones")],
)
def test_why_words_have_no_token_is_said(max_symbols, reason, monkeypatch, capsys):
    monkeypatch.setattr("research.data.text.MAX_SYMBOLS", max_symbols)
    vocabulary = make_vocabulary(["a a b b a c"], "words")
    windows = LabeledArrays(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.int32))
    make_text_dataset(
        TextData(),
        DatasetInfo({"train": 2, "test": 2}, (2,), text=True, language=True),
        vocabulary,
        lambda split: windows,
        name="texts",
        version="1",
        classes=len(vocabulary),
    )
    assert f"4 of the 4 training tokens stand for words that {reason}, as one" in (
        capsys.readouterr().err
    )


def test_padding_is_not_counted_as_tokens(capsys):
    examples = LabeledTexts(["a a b", "a a", "c"], np.zeros(3, np.int32))
    vocabulary = make_vocabulary(examples.texts, "words", padded=True)
    rows = encode_texts(examples, vocabulary, 4, source="texts")
    make_text_dataset(
        TextData(),
        DatasetInfo({"train": 3, "test": 3}, (4,), text=True),
        vocabulary,
        lambda split: rows,
        name="texts",
        version="1",
        classes=2,
    )
    assert "data=texts: 2 of the 6 training tokens stand for words" in capsys.readouterr().err


def test_texts_that_become_equal_as_tokens_are_told_from_equal_texts(capsys):
    splits = {
        "train": ["what is a cat ?", "what is a dog ?", "is a long question"],
        "test": ["what is a cat ?", "what is a cow ?", "is a long one"],
    }
    vocabulary = make_vocabulary(["what is a ? what is a ?"], "words", padded=True)

    def read(split):
        examples = LabeledTexts(splits[split], np.arange(3) % 2)
        return encode_texts(examples, vocabulary, 5, source=split)

    dataset = make_text_dataset(
        TextData(),
        DatasetInfo({"train": 3, "test": 3}, (5,), text=True),
        vocabulary,
        read,
        name="texts",
        version="1",
        classes=2,
    )
    report_shared_examples(dataset)
    assert capsys.readouterr().err.endswith(
        "the inputs of 3 of the 3 evaluation examples are those of training examples, too: "
        "1 of them as texts, the others only as tokens\n"
    )


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
