"""A dataset ready to train on: flat rows and labels, and how to turn rows into network inputs."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from research.config.data_options import Data
from research.data.splits import cut

Columns = tuple[np.ndarray, np.ndarray]  # examples and their targets


class Known(NamedTuple):
    """What is known of a dataset before it is loaded: the examples of each split, and what one of them is."""

    splits: Mapping[str, int]
    shape: tuple[int, ...]
    text: bool = False
    language: bool = False  # text whose target is the next token
    real: bool = False  # targets are numbers to be met, not classes


class Examples(Protocol):
    """Examples that are read one by one, when they are needed."""

    def __len__(self) -> int: ...

    def read(self, index: int, draw: np.random.Generator | None) -> tuple[np.ndarray, int]:
        """An example's numbers [features] and its label; ``draw`` is what chance there is in training."""
        ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and held-out examples as flat rows.

    ``x`` [n, features] (any number format) and ``y`` [n] int32, likewise ``eval_x`` and ``eval_y``. Inputs to the
    network are (row - offset)·scale, with one number each or one a feature [1, features]. Where numbers are to be met,
    ``y`` is [n, outputs] float32 and ``classes`` are the outputs.

    Of a language model, rows are windows of T tokens: ``x`` [n, T] with values below ``vocabulary``, ``y`` [n, T] the
    next token at every position; ``classes`` is the vocabulary. ``symbols``: the characters or words by token number,
    of padded texts by token number less 1. Where text is ``padded``, token 0 stands behind its end.

    Where data are streamed, ``x`` and ``y``, ``eval_x`` and ``eval_y`` are a sample of them, and ``train`` and
    ``held_out`` give all.
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
    offset: float | np.ndarray
    scale: float | np.ndarray
    vocabulary: int = 0  # 0: rows are numbers
    symbols: str | tuple[str, ...] = ""
    padded: bool = False
    train: Examples | None = None
    held_out: Examples | None = None

    @property
    def examples(self) -> int:
        """Training examples."""
        return len(self.x) if self.train is None else len(self.train)

    @property
    def language(self) -> bool:
        """Whether every position has a target, the next token."""
        return self.vocabulary > 0 and self.y.ndim == 2

    @property
    def real(self) -> bool:
        """Whether targets are numbers to be met."""
        return self.y.dtype.kind == "f"

    @property
    def mean_square(self) -> float:
        """The mean square of an input element: q of the input layer in mean-field theory.

        1 for tokens: a token selects one row of the embedding, as it is.
        """
        if self.vocabulary:
            return 1.0
        return (
            sum(
                float((((block - self.offset) * self.scale) ** 2).sum())
                for block in _blocks(self.x)
            )
            / self.x.size
        )

    @property
    def unigram_entropy(self) -> float:
        """-Σ p log p of the training targets' shares p, in nats: the loss of the best guess that ignores the input."""
        counts = np.bincount(self.y.ravel(), minlength=self.classes)
        shares = counts[counts > 0] / self.y.size
        return float(-(shares * np.log(shares)).sum())

    @property
    def class_counts(self) -> list[int] | None:
        """Training examples of each class; None where there are no classes, or examples are streamed."""
        if self.language or self.real or self.train is not None:
            return None
        return np.bincount(self.y, minlength=self.classes).tolist()

    def fingerprint(self) -> str:
        """A hash of all examples and labels, in order, and of what the tokens stand for.

        Where data are streamed, of a sample of them and of how many there are.
        """
        digest = hashlib.sha256("\0".join(self.symbols).encode() if self.vocabulary else b"")
        for array in (self.x, self.y, self.eval_x, self.eval_y):
            digest.update(np.ascontiguousarray(array).tobytes())
        if self.train is not None and self.held_out is not None:
            digest.update(f"{len(self.train)} {len(self.held_out)}".encode())
        return digest.hexdigest()[:16]

    def arrays(self) -> dict[str, np.ndarray]:
        """What the program reads, by the names it reads it under; of streamed data what does not change."""
        numbers = {
            "offset": np.asarray(self.offset, np.float32),
            "scale": np.asarray(self.scale, np.float32),
        }
        if self.train is not None:
            return numbers
        return {"x": self.x, "y": self.y, "eval_x": self.eval_x, "eval_y": self.eval_y} | numbers


def chosen(
    data: Data, sizes: Mapping[str, int], read: Callable[[str], Columns], classes: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The examples that the settings ask for, from those of whole splits: ``x``, ``y``, ``eval_x``, ``eval_y``.

    Of class labels below ``classes``, a share of ``data.label_noise`` of the training ones is drawn anew.
    """
    (split, part) = cut(data.split, sizes)
    (eval_split, eval_part) = cut(data.eval_split, sizes, "data.eval_split")
    x, y = read(split)
    eval_x, eval_y = read(eval_split) if eval_split != split else (x, y)
    for path, labels in (("split", y[part]), ("eval_split", eval_y[eval_part])):
        if classes and labels.dtype.kind != "f" and labels.min() < 0:
            raise ValueError(
                f"data.{path} must have labels: those of {getattr(data, path)} are missing"
            )
    x = x[part]
    y = relabelled(y[part], classes, getattr(data, "label_noise", 0.0))
    return x[: data.limit], y[: data.limit], eval_x[eval_part], eval_y[eval_part]


def relabelled(y: np.ndarray, classes: int, share: float) -> np.ndarray:
    """A share of the labels [n] replaced by uniform draws, the right label among them (Zhang et al. 2017, §2.1).

    The same draws for every run: an example's new label and its rank among those that lose theirs depend on its place
    alone, so that more noise keeps what less noise has changed.
    """
    if not share:
        return y
    generator = np.random.default_rng(1)
    rank = generator.random(len(y))
    drawn = generator.integers(classes, size=len(y), dtype=y.dtype)
    return np.where(rank < share, drawn, y)


def standardised(rows: np.ndarray) -> tuple[float, float]:
    """The offset and scale that give the rows mean 0 and standard deviation 1 over all elements."""
    offset = sum(float(block.sum()) for block in _blocks(rows)) / rows.size
    variance = sum(float(((block - offset) ** 2).sum()) for block in _blocks(rows)) / rows.size
    return offset, 1 / max(math.sqrt(variance), math.ulp(1.0))


def standardised_per_feature(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The offsets and scales [1, features] that give each feature mean 0 and standard deviation 1 over the rows.

    A feature that is the same in all rows is not scaled.
    """
    nothing = np.zeros((1, rows.shape[1]))
    offset = sum((block.sum(axis=0, keepdims=True) for block in _blocks(rows)), nothing) / len(rows)
    variance = sum(
        (((block - offset) ** 2).sum(axis=0, keepdims=True) for block in _blocks(rows)), nothing
    ) / len(rows)
    return offset, 1 / np.sqrt(np.where(variance > 0, variance, 1))


def _blocks(rows: np.ndarray, elements: int = 2**22) -> Iterator[np.ndarray]:
    """The rows in float64, a few at a time: all of CIFAR-10 at once would take a gigabyte."""
    step = max(1, elements // rows.shape[1])
    for start in range(0, len(rows), step):
        yield rows[start : start + step].astype(np.float64)
