"""Texts as tokens: vocabularies, windows for language models, and padded examples."""

import collections
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from research.config.data_options import SplitData
from research.config.notices import notify_once
from research.data.dataset import (
    Dataset,
    DatasetInfo,
    LabeledArrays,
    hash_sources,
    select_splits,
)

UNKNOWN = "\ufffd"  # the symbol for everything that has no token
EMPTY_TEXT = 1  # the token of a text that has none
PADDING = 0  # the token that fills a row after the end of its text
MIN_OCCURRENCES = {"characters": 10, "words": 2}  # in the training text, to get a token
MAX_SYMBOLS = 20_000  # of a vocabulary, which keeps the most frequent ones


@dataclass(frozen=True)
class LabeledTexts:
    """Texts and their class labels [n]."""

    texts: list[str]
    labels: np.ndarray


@dataclass(frozen=True)
class Vocabulary:
    """What the tokens stand for.

    Attributes:
        unit: What a token is: ``characters``, ``bytes`` or ``words``.
        symbols: Characters or words by token number; empty for bytes, whose values are the tokens.
        padded: Whether token 0 is padding, which moves all symbols by one.
    """

    unit: str
    symbols: tuple[str, ...]
    padded: bool = False

    def __len__(self) -> int:
        num_symbols = 256 if self.unit == "bytes" else len(self.symbols)
        return num_symbols + int(self.padded)

    @property
    def dtype(self) -> type[np.integer]:
        """The smaller of uint8 and int32 that holds every token."""
        return np.uint8 if len(self) <= 256 else np.int32

    def encode(self, text: str) -> np.ndarray:
        """The tokens [n] of a text. A symbol without a token becomes the unknown token."""
        first_token = int(self.padded)
        if self.unit == "bytes":
            values = np.frombuffer(text.encode(), np.uint8)
            tokens = values.astype(np.int32) + first_token
            return tokens.astype(self.dtype)
        token_of = {}
        for token, symbol in enumerate(self.symbols, first_token):
            token_of[symbol] = token
        tokens = []
        for symbol in split_symbols(text, self.unit):
            tokens.append(token_of.get(symbol, first_token))
        return np.array(tokens, self.dtype)


def make_vocabulary(
    texts: Iterable[str],
    unit: str,
    *,
    padded: bool = False,
) -> Vocabulary:
    """The vocabulary of the training texts.

    Characters are sorted, words are in order of frequency. The first symbol is the unknown one.

    Args:
        texts: The training texts.
        unit: What a token is: ``characters``, ``bytes`` or ``words``.
        padded: Whether token 0 is padding.
    """
    if unit == "bytes":
        return Vocabulary(unit, (), padded)
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        counts.update(split_symbols(text, unit))
    symbols = []
    for symbol, count in counts.most_common(MAX_SYMBOLS - 1):
        if count >= MIN_OCCURRENCES[unit]:
            symbols.append(symbol)
    if unit == "characters":
        symbols.sort()
    return Vocabulary(unit, (UNKNOWN, *symbols), padded)


def split_symbols(text: str, unit: str) -> Sequence[str]:
    """The characters of a text, or its words in lower case; punctuation marks are words too."""
    if unit == "characters":
        return text
    return re.findall(r"\w+|[^\w\s]", text.lower())


def encode_texts(
    examples: LabeledTexts,
    vocabulary: Vocabulary,
    length: int,
    *,
    source: str,
) -> LabeledArrays:
    """The first ``length`` tokens of each text, then padding, and the labels.

    An empty text becomes one unknown token. A line on standard error counts the texts that are cut.

    Args:
        examples: The texts.
        vocabulary: What the tokens stand for.
        length: Number of tokens T of a row.
        source: The dataset and the split, for that line.

    Returns:
        Rows [n, T] and labels [n].
    """
    rows = np.full((len(examples.texts), length), PADDING, vocabulary.dtype)
    num_cut = 0
    for row, text in zip(rows, examples.texts, strict=True):
        tokens = vocabulary.encode(text)
        num_cut += len(tokens) > length
        kept = tokens[:length]
        if len(kept):
            row[: len(kept)] = kept
        else:
            row[0] = EMPTY_TEXT
    if num_cut:
        notify_once(
            f"{source}: {num_cut} of {len(rows)} texts are cut to their first {length} "
            f"{vocabulary.unit}: data.length sets how many are read"
        )
    return LabeledArrays(rows, examples.labels, hash_sources(examples.texts))


def make_windows(tokens: np.ndarray, length: int) -> LabeledArrays:
    """All whole windows ``x`` [n, T], and the next token at every position, ``y`` [n, T] int32."""
    end = (len(tokens) - 1) // length * length
    x = tokens[:end].reshape(-1, length)
    y = tokens[1 : end + 1].reshape(-1, length)
    return LabeledArrays(x, y.astype(np.int32))


def make_text_dataset(
    data: SplitData,
    info: DatasetInfo,
    vocabulary: Vocabulary,
    read: Callable[[str], LabeledArrays],
    *,
    name: str,
    version: str,
    classes: int,
    shuffle: bool = False,
) -> Dataset:
    """A dataset of tokens in memory.

    Args:
        data: The settings.
        info: The splits, and the shape of an example.
        vocabulary: What the tokens stand for.
        read: Reads all examples of a split.
        name: Name of the dataset.
        version: Version of the dataset.
        classes: Number of classes; for a language model, the size of the vocabulary.
        shuffle: Whether parts of a split are cut from a fixed random order.
    """
    selected = select_splits(data, info.splits, read, classes, shuffle=shuffle)
    _report_unknown_tokens(name, vocabulary, selected.train.x)
    symbols = vocabulary.symbols
    if vocabulary.unit == "characters":
        symbols = "".join(symbols)
    return Dataset(
        name=name,
        version=version,
        split=data.split,
        x=selected.train.x,
        y=selected.train.y,
        eval_x=selected.evaluation.x,
        eval_y=selected.evaluation.y,
        shape=info.shape,
        classes=classes,
        vocabulary=len(vocabulary),
        symbols=symbols,
        padded=vocabulary.padded,
        source_hashes=selected.train.source_hashes,
        eval_source_hashes=selected.evaluation.source_hashes,
    )


def _report_unknown_tokens(
    name: str,
    vocabulary: Vocabulary,
    rows: np.ndarray,
) -> None:
    """Say how many tokens stand for symbols that have none of their own, if any do."""
    if vocabulary.unit == "bytes":
        return
    unknown = int(vocabulary.padded)
    num_unknown = np.count_nonzero(rows == unknown)
    num_tokens = np.count_nonzero(rows != PADDING) if vocabulary.padded else rows.size
    if not num_unknown:
        return
    rarity = f"occur fewer than {MIN_OCCURRENCES[vocabulary.unit]} times"
    if len(vocabulary.symbols) == MAX_SYMBOLS:
        rarity = f"are not among the {MAX_SYMBOLS - 1} most frequent ones"
    verb = "stands" if num_unknown == 1 else "stand"
    notify_once(
        f"data={name}: {num_unknown} of the {num_tokens} training tokens {verb} for "
        f"{vocabulary.unit} that {rarity}, as one unknown symbol"
    )
