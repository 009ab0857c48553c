"""The interpreter's own documentation topics as text, character by character: in every Python, no network."""

import collections
import functools
import platform

import numpy as np

from research.data.dataset import Dataset

REPLACEMENT = "\ufffd"  # token 0: every character that is rare or that the training text lacks
RARE = 10  # occurrences in the training text, below which a character has no token of its own


def load_python_docs(split: str, eval_split: str, length: int, limit: int | None) -> Dataset:
    """Windows of ``length`` characters, one after the other, with the next character at every position as target.

    The vocabulary is that of the whole training text, whatever ``limit`` leaves of it.
    """
    symbols = _symbols()
    (x, y), (eval_x, eval_y) = (windows(encoded(_texts()[name], symbols), length) for name in (split, eval_split))
    shape, size = (length,), len(symbols)
    rows = x[:limit], y[:limit], eval_x, eval_y
    return Dataset("python_docs", platform.python_version(), split, *rows, shape, size, 0.0, 1.0, size, symbols)


def splits(length: int) -> dict[str, int]:
    """How many windows each split has.

    Raises:
        ValueError: a split is too short for one window.
    """
    targets = {name: len(text) - 1 for name, text in _texts().items()}
    if length > min(targets.values()):
        raise ValueError(
            f"data.length must be ≤ {min(targets.values())}, the held-out text of python_docs, got {length}"
        )
    return {name: count // length for name, count in targets.items()}


def encoded(text: str, symbols: str) -> np.ndarray:
    """The characters' numbers [n], uint8 where they fit and int32 otherwise; 0 for one that ``symbols`` lacks."""
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    return np.array([numbers.get(symbol, 0) for symbol in text], np.uint8 if len(symbols) <= 256 else np.int32)


def windows(tokens: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """All whole windows [n, T] of a text, and the next token at every position [n, T] int32."""
    end = (len(tokens) - 1) // length * length
    return tokens[:end].reshape(-1, length), tokens[1 : end + 1].reshape(-1, length).astype(np.int32)


@functools.cache
def _texts() -> dict[str, str]:
    """All topics in the order of their names, the last tenth of the characters held out.

    Topics quote one another: of a paragraph that occurs more than once the first place is kept, so that what is held
    out is new.
    """
    from pydoc_data.topics import topics

    paragraphs = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    text = "\n\n".join(dict.fromkeys(paragraphs))
    start = len(text) - len(text) // 10
    return {"train": text[:start], "test": text[start:]}


@functools.cache
def _symbols() -> str:
    counts = collections.Counter(_texts()["train"])
    return REPLACEMENT + "".join(sorted(symbol for symbol, count in counts.items() if count >= RARE))
