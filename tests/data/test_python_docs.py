import platform
from pydoc_data.topics import topics

import numpy as np
import pytest

from research.config.data_options import Data
from research.config.schema import Config, DataKind, ModelKind
from research.config.validation import check
from research.data import python_docs
from research.data.python_docs import describe, load_python_docs
from research.data.text import RARE, UNKNOWN, Vocabulary, windows

PARAGRAPHS = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
TEXT = "\n\n".join(
    text for n, text in enumerate(PARAGRAPHS) if text not in PARAGRAPHS[:n]
)  # each where it is first
HELD_OUT = len(TEXT) // 10  # characters
PARTS = {"train": TEXT[:-HELD_OUT], "test": TEXT[-HELD_OUT:]}
T = 64


def docs_of(**changes):
    return Data(name=DataKind["python_docs"], **{"length": T, **changes})


@pytest.fixture(scope="module")
def docs():
    return load_python_docs(docs_of())


def read(tokens, symbols):
    return "".join(symbols[token] for token in tokens.ravel())


def known(text, symbols):
    """A text as the tokens spell it."""
    return "".join(character if character in symbols else UNKNOWN for character in text)


@pytest.mark.parametrize("length", [2, 63, T, 1000])
def test_windows_and_their_targets_spell_the_text(length):
    docs = load_python_docs(docs_of(length=length))
    for split, x, y in (("train", docs.x, docs.y), ("test", docs.eval_x, docs.eval_y)):
        text = known(PARTS[split], docs.symbols)
        end = x.size
        assert x.shape == y.shape == (describe(docs_of(length=length)).splits[split], length)
        assert read(x, docs.symbols) == text[:end] and read(y, docs.symbols) == text[1 : end + 1]
        assert (
            end + 1 <= len(text) <= end + length
        )  # not one window more would have had its targets
    assert docs.shape == (length,) and docs.version == platform.python_version()


def test_no_training_character_is_held_out(docs):
    """The splits are two ends of one text, and no training window's last target is the first held-out character."""
    assert PARTS["train"] + PARTS["test"] == TEXT
    assert docs.x.size < len(PARTS["train"])
    assert (
        load_python_docs(docs_of(split="test", eval_split="train")).x.tobytes()
        == docs.eval_x.tobytes()
    )


def test_no_held_out_window_occurs_in_the_training_text(docs):
    """Topics quote one another; whole paragraphs that do are kept once. Single lines may still recur."""
    windows_ = {read(row, docs.symbols) for row in docs.eval_x}
    text = read(docs.x, docs.symbols)
    assert sum(window in text for window in windows_) <= 0.01 * len(windows_)


def test_the_vocabulary_is_the_characters_that_are_not_rare_in_training(docs):
    assert (
        docs.symbols[0] == UNKNOWN and docs.vocabulary == docs.classes == len(docs.symbols) <= 256
    )
    assert len(set(docs.symbols)) == len(docs.symbols)
    assert set(docs.symbols[1:]) == {
        c for c in set(TEXT) if PARTS["train"].count(c) >= RARE["characters"]
    }
    assert (
        docs.x.dtype == docs.eval_x.dtype == np.uint8
        and docs.y.dtype == docs.eval_y.dtype == np.int32
    )
    assert max(docs.x.max(), docs.eval_x.max(), docs.y.max(), docs.eval_y.max()) < docs.vocabulary
    assert (docs.x == 0).mean() < 1e-3  # nearly every character has a token


def test_topics_stand_in_the_order_of_their_names_and_ten_occurrences_are_enough(monkeypatch):
    monkeypatch.setattr(
        "pydoc_data.topics.topics", {"second": "b" * 9 + "c" * 20, "first": "a" * 10}
    )
    for kept in (python_docs._texts, python_docs._vocabulary):
        monkeypatch.setattr(python_docs, kept.__name__, kept.__wrapped__)
    docs = load_python_docs(docs_of(length=2))
    assert docs.symbols == f"{UNKNOWN}ac"
    assert read(docs.x, docs.symbols) == "a" * 10 + UNKNOWN * 11 + "c" * 15


def test_what_has_no_token_is_replaced_and_many_symbols_are_wider():
    assert Vocabulary("characters", ("?", "a", "b")).encode("abcz").tolist() == [1, 2, 0, 0]
    many = tuple(map(chr, range(257)))
    narrow, wide = (
        Vocabulary("characters", symbols).encode("".join(symbols)) for symbols in (many[:-1], many)
    )
    assert narrow.dtype == np.uint8 and wide.dtype == np.int32 and wide.tolist() == list(range(257))


def test_windows_do_not_overlap_and_every_one_has_all_its_targets():
    x, y = windows(np.arange(9), 4)
    assert x.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]] and y.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert len(windows(np.arange(8), 4)[0]) == 1


def test_a_limit_keeps_the_first_windows_and_the_vocabulary(docs):
    few = load_python_docs(docs_of(limit=5))
    assert np.array_equal(few.x, docs.x[:5]) and np.array_equal(few.y, docs.y[:5])
    assert np.array_equal(few.eval_x, docs.eval_x) and few.symbols == docs.symbols
    assert few.fingerprint() != docs.fingerprint() == load_python_docs(docs_of()).fingerprint()


def test_the_unigram_entropy_is_that_of_the_training_characters(docs):
    _, counts = np.unique(
        list(known(PARTS["train"][1 : docs.y.size + 1], docs.symbols)), return_counts=True
    )
    shares = counts / counts.sum()
    assert docs.unigram_entropy == pytest.approx(-np.sum(shares * np.log(shares)), rel=1e-12)
    assert 1 < docs.unigram_entropy < np.log(docs.vocabulary)


def test_tokens_are_taken_as_they_are(docs):
    assert (docs.offset, docs.scale, docs.mean_square) == (0, 1, 1)


def test_other_symbols_of_the_same_tokens_are_another_dataset(docs):
    import dataclasses

    assert dataclasses.replace(docs, symbols=docs.symbols[::-1]).fingerprint() != docs.fingerprint()


def chosen(**changes):
    config = Config()
    config.data.name = DataKind["python_docs"]
    config.model.kind = ModelKind["transformer"]
    for path, value in changes.items():
        setattr(config.data, path, value)
    return config


def test_a_window_no_longer_than_the_held_out_text_is_taken():
    longest = HELD_OUT - 1  # of which every character has a next one
    assert describe(docs_of(length=longest)).splits["test"] == 1
    with pytest.raises(ValueError, match=f"data.length must be ≤ {longest}, .* got {longest + 1}"):
        check(chosen(length=longest + 1))


def test_a_batch_is_no_larger_than_the_windows():
    config = chosen(length=4096)
    with pytest.raises(
        ValueError,
        match=f"train.batch_size must be ≤ {describe(docs_of(length=4096)).splits['train']}, .* got 128",
    ):
        check(config)


@pytest.mark.parametrize("path", ["split", "eval_split"])
def test_a_split_that_does_not_exist_is_refused_by_name(path):
    with pytest.raises(
        ValueError, match=f"^data.{path} must be one of train, test, got validation"
    ):
        check(chosen(**{path: "validation"}))
