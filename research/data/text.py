"""Texts as tokens: vocabularies of characters, bytes or words, windows for language models, padded examples."""

import collections
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

UNKNOWN = "\ufffd"  # stands for everything that is rare or that the training text lacks
PADDING = 0  # the token behind the end of a padded example
RARE = {
    "characters": 10,
    "words": 2,
}  # occurrences in the training text, below which there is no token of its own
WORDS = 20_000  # the most that a vocabulary holds, the most frequent ones


@dataclass(frozen=True)
class Vocabulary:
    """What the tokens stand for: characters or words by token number; bytes are their own numbers.

    ``padded``: token 0 is padding, and whatever a token stands for is one place further on.
    """

    unit: str
    symbols: tuple[str, ...]
    padded: bool = False

    def __len__(self) -> int:
        return self.padded + (256 if self.unit == "bytes" else len(self.symbols))

    def described(self) -> tuple[int, str | tuple[str, ...], bool]:
        """How many tokens there are, what they stand for as the record keeps it, and whether texts are padded."""
        return (
            len(self),
            "".join(self.symbols) if self.unit == "characters" else self.symbols,
            self.padded,
        )

    def encode(self, text: str) -> np.ndarray:
        """The tokens' numbers [n], uint8 where all fit and int32 otherwise; what has none is the unknown token."""
        format_ = np.uint8 if len(self) <= 256 else np.int32
        if self.unit == "bytes":
            return (np.frombuffer(text.encode(), np.uint8).astype(np.int32) + self.padded).astype(
                format_
            )
        numbers = {symbol: number for number, symbol in enumerate(self.symbols, self.padded)}
        return np.array(
            [numbers.get(piece, self.padded) for piece in pieces(text, self.unit)], format_
        )

    def padded_rows(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Texts as rows [n, T] of their first ``length`` tokens, zeros behind them; an empty text is one unknown."""
        rows = np.zeros((len(texts), length), np.uint8 if len(self) <= 256 else np.int32)
        for row, text in zip(rows, texts, strict=True):
            tokens = self.encode(text)[:length]
            row[: max(1, len(tokens))] = tokens if len(tokens) else 1
        return rows


def make_vocabulary(texts: Iterable[str], unit: str, *, padded: bool = False) -> Vocabulary:
    """The vocabulary of the training texts.

    Characters stand in their own order, words in that of their frequency; the first symbol is the unknown one.
    """
    if unit == "bytes":
        return Vocabulary(unit, (), padded)
    counts = collections.Counter(piece for text in texts for piece in pieces(text, unit))
    frequent = [symbol for symbol, count in counts.most_common(WORDS - 1) if count >= RARE[unit]]
    return Vocabulary(
        unit, (UNKNOWN, *(sorted(frequent) if unit == "characters" else frequent)), padded
    )


def pieces(text: str, unit: str) -> Sequence[str]:
    """A text's characters, or its words in lower case, in which punctuation marks are words too."""
    return text if unit == "characters" else re.findall(r"\w+|[^\w\s]", text.lower())


def windows(tokens: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """All whole windows [n, T] of a text, and the next token at every position [n, T] int32."""
    end = (len(tokens) - 1) // length * length
    return tokens[:end].reshape(-1, length), tokens[1 : end + 1].reshape(-1, length).astype(
        np.int32
    )
