"""A dataset in memory: flat rows and labels, and how to turn rows into network inputs."""

import dataclasses
import hashlib
import math
from collections.abc import Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and held-out examples as flat rows.

    ``x`` [n, features] (any number format) and ``y`` [n] int32, likewise ``eval_x`` and ``eval_y``. Inputs to the
    network are (row - offset)·scale.

    Of a language model, rows are windows of T tokens: ``x`` [n, T] with values below ``vocabulary``, ``y`` [n, T] the
    next token at every position, ``symbols`` the characters by token number; ``classes`` is the vocabulary.
    """

    name: str
    version: str
    split: str
    x: np.ndarray
    y: np.ndarray
    eval_x: np.ndarray
    eval_y: np.ndarray
    shape: tuple[int, ...]
    classes: int
    offset: float
    scale: float
    vocabulary: int = 0  # 0: rows are numbers
    symbols: str = ""

    @property
    def mean_square(self) -> float:
        """The mean square of an input element: q of the input layer in mean-field theory.

        1 for tokens: a token selects one row of the embedding, as it is.
        """
        if self.vocabulary:
            return 1.0
        return sum(float((((block - self.offset) * self.scale) ** 2).sum()) for block in _blocks(self.x)) / self.x.size

    @property
    def unigram_entropy(self) -> float:
        """-Σ p log p of the training targets' shares p, in nats: the loss of the best guess that ignores the input."""
        counts = np.bincount(self.y.ravel(), minlength=self.classes)
        shares = counts[counts > 0] / self.y.size
        return float(-(shares * np.log(shares)).sum())

    def fingerprint(self) -> str:
        """A hash of all examples and labels, in order, and of what the tokens stand for."""
        digest = hashlib.sha256(self.symbols.encode())
        for array in (self.x, self.y, self.eval_x, self.eval_y):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def arrays(self) -> dict[str, np.ndarray]:
        """What the program reads, by the names it reads it under."""
        numbers = {"offset": np.asarray(self.offset, np.float32), "scale": np.asarray(self.scale, np.float32)}
        return {"x": self.x, "y": self.y, "eval_x": self.eval_x, "eval_y": self.eval_y} | numbers


def standardised(rows: np.ndarray) -> tuple[float, float]:
    """The offset and scale that give the rows mean 0 and standard deviation 1 over all elements."""
    offset = sum(float(block.sum()) for block in _blocks(rows)) / rows.size
    variance = sum(float(((block - offset) ** 2).sum()) for block in _blocks(rows)) / rows.size
    return offset, 1 / max(math.sqrt(variance), math.ulp(1.0))


def _blocks(rows: np.ndarray, elements: int = 2**22) -> Iterator[np.ndarray]:
    """The rows in float64, a few at a time: all of CIFAR-10 at once would take a gigabyte."""
    step = max(1, elements // rows.shape[1])
    for start in range(0, len(rows), step):
        yield rows[start : start + step].astype(np.float64)
