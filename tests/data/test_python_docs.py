"""The documentation topics of Python as text."""

import dataclasses
import platform
from pydoc_data.topics import topics

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from research.config.data_options import TextData
from research.data import python_docs
from research.data.compatibility import check_data
from research.data.python_docs import describe, load_python_docs
from research.data.standardize import NOT_STANDARDIZED
from research.data.text import MIN_OCCURRENCES, UNKNOWN

from .. import builders

T = 64
LENGTHS = [2, 63, T, 1000]


def unique_text():
    """All topics in alphabetical order, each paragraph where it occurs first."""
    whole = "\n\n".join(topics[name] for name in sorted(topics))
    paragraphs = []
    for paragraph in whole.split("\n\n"):
        if paragraph not in paragraphs:
            paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


TEXT = unique_text()
TEST_CHARACTERS = len(TEXT) // 10
TRAIN_TEXT = TEXT[:-TEST_CHARACTERS]
TEST_TEXT = TEXT[-TEST_CHARACTERS:]


def settings(length=T, **changes):
    return TextData(length=length, **changes)


def load_docs(length=T, **changes):
    return load_python_docs(settings(length, **changes))


@pytest.fixture(scope="module")
def docs():
    return load_docs()


def decode(tokens, symbols):
    return "".join(symbols[token] for token in tokens.ravel())


def replace_unknown(text, symbols):
    """A text in which the unknown symbol replaces every character without a token."""
    return "".join(character if character in symbols else UNKNOWN for character in text)


@pytest.mark.parametrize("length", LENGTHS)
def test_windows_and_their_targets_spell_the_text(length):
    docs = load_docs(length)
    assert_windows_spell(TRAIN_TEXT, docs.x, docs.y, docs.symbols)
    assert_windows_spell(TEST_TEXT, docs.eval_x, docs.eval_y, docs.symbols)


def assert_windows_spell(text, x, y, symbols):
    _, length = x.shape
    end = x.size
    text = replace_unknown(text, symbols)
    assert x.shape == y.shape
    assert decode(x, symbols) == text[:end]
    assert decode(y, symbols) == text[1 : end + 1]
    # One window more would not have all its targets.
    assert end + 1 <= len(text) <= end + length


@pytest.mark.parametrize("length", LENGTHS)
def test_the_number_of_windows_is_known_before_they_are_loaded(length):
    sizes = describe(settings(length)).splits
    docs = load_docs(length)
    assert docs.x.shape == (sizes["train"], length)
    assert docs.eval_x.shape == (sizes["test"], length)


def test_the_dataset_has_the_version_of_the_interpreter(docs):
    assert docs.shape == (T,)
    assert docs.version == platform.python_version()


def test_no_training_character_is_in_the_test_split(docs):
    """The splits are two ends of one text, and no training target is the first test character."""
    assert TRAIN_TEXT + TEST_TEXT == TEXT
    assert docs.x.size < len(TRAIN_TEXT)


def test_the_splits_can_be_exchanged(docs):
    exchanged = load_docs(split="test", eval_split="train")
    assert exchanged.x.tobytes() == docs.eval_x.tobytes()


def test_no_test_window_occurs_in_the_training_text(docs):
    """Topics quote one another; a paragraph is kept once. Single lines may still recur."""
    text = decode(docs.x, docs.symbols)
    windows = {decode(row, docs.symbols) for row in docs.eval_x}
    recurring = [window for window in windows if window in text]
    assert len(recurring) <= 0.01 * len(windows)


def test_the_vocabulary_is_the_characters_that_are_frequent_in_training(docs):
    frequent = set()
    for character in set(TEXT):
        if TRAIN_TEXT.count(character) >= MIN_OCCURRENCES["characters"]:
            frequent.add(character)
    assert docs.symbols[0] == UNKNOWN
    assert set(docs.symbols[1:]) == frequent
    assert len(set(docs.symbols)) == len(docs.symbols)
    assert docs.vocabulary == docs.classes == len(docs.symbols) <= 256


def test_tokens_are_small_and_nearly_every_character_has_one(docs):
    assert docs.x.dtype == docs.eval_x.dtype == np.uint8
    assert docs.y.dtype == docs.eval_y.dtype == np.int32
    assert docs.x.max() < docs.vocabulary
    assert docs.y.max() < docs.vocabulary
    assert docs.eval_x.max() < docs.vocabulary
    assert docs.eval_y.max() < docs.vocabulary
    assert (docs.x == 0).mean() < 1e-3


@pytest.fixture
def two_topics(monkeypatch):
    """Replaces the topics of Python by two short ones."""
    few = {
        "second": "b" * 9 + "c" * 20,
        "first": "a" * 10,
    }
    monkeypatch.setattr("pydoc_data.topics.topics", few)
    clear_caches()
    yield
    clear_caches()


def clear_caches():
    python_docs.split_text.cache_clear()
    python_docs.text_vocabulary.cache_clear()
    python_docs.split_tokens.cache_clear()


def test_topics_are_in_alphabetical_order_and_ten_occurrences_are_enough(two_topics):
    docs = load_docs(length=2)
    assert docs.symbols == f"{UNKNOWN}ac"
    expected = "a" * 10 + UNKNOWN * 11 + "c" * 15
    assert decode(docs.x, docs.symbols) == expected


def test_a_limit_keeps_the_first_windows_and_the_vocabulary(docs):
    few = load_docs(limit=5)
    assert_array_equal(few.x, docs.x[:5])
    assert_array_equal(few.y, docs.y[:5])
    assert_array_equal(few.eval_x, docs.eval_x)
    assert few.symbols == docs.symbols


def test_the_fingerprint_is_that_of_the_examples(docs):
    again = load_docs()
    few = load_docs(limit=5)
    assert again.fingerprint() == docs.fingerprint()
    assert few.fingerprint() != docs.fingerprint()


def test_other_symbols_of_the_same_tokens_are_another_dataset(docs):
    symbols = docs.symbols[::-1]
    other = dataclasses.replace(docs, symbols=symbols)
    assert other.fingerprint() != docs.fingerprint()


def test_the_unigram_entropy_is_that_of_the_training_characters(docs):
    targets = TRAIN_TEXT[1 : docs.y.size + 1]
    characters = list(replace_unknown(targets, docs.symbols))
    _, counts = np.unique(characters, return_counts=True)
    frequencies = counts / counts.sum()
    entropy = -np.sum(frequencies * np.log(frequencies))
    assert docs.unigram_entropy == pytest.approx(entropy, rel=1e-12)
    assert 1 < docs.unigram_entropy < np.log(docs.vocabulary)


def test_tokens_are_not_standardized(docs):
    assert docs.standardization is NOT_STANDARDIZED
    assert docs.mean_square == 1


def make_config(**data_settings):
    changes = {"data": "python_docs", "model": "transformer"}
    for setting, value in data_settings.items():
        changes[f"data.{setting}"] = value
    return builders.make_config(changes)


def test_a_window_is_no_longer_than_the_test_text():
    longest = TEST_CHARACTERS - 1  # the last character has no next one
    assert describe(settings(longest)).splits["test"] == 1
    message = f"data.length must be ≤ {longest}, .* got {longest + 1}"
    with pytest.raises(ValueError, match=message):
        check_data(make_config(length=longest + 1))


def test_a_batch_is_no_larger_than_the_number_of_windows():
    windows = describe(settings(4096)).splits["train"]
    message = f"train.batch_size must be ≤ {windows}, .* got 128"
    with pytest.raises(ValueError, match=message):
        check_data(make_config(length=4096))


@pytest.mark.parametrize("setting", ["split", "eval_split"])
def test_a_split_that_does_not_exist_is_refused_by_name(setting):
    message = f"^data.{setting} must be one of train, test, got validation"
    with pytest.raises(ValueError, match=message):
        check_data(make_config(**{setting: "validation"}))


@pytest.mark.parametrize("cut", [{"limit": 100}, {"split": "train[:10%]"}])
def test_a_part_of_the_paragraphs_comes_from_many_topics(cut):
    """They are sorted by topic."""
    docs = load_python_docs(TextData(label="topic", **cut))
    assert len(set(docs.y)) > 10
