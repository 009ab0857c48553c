"""A dataset ready to train on: flat rows and targets, and how rows become network inputs."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np

from research.config.data_options import SplitData
from research.data.splits import parse_split

MAX_BLOCK_ELEMENTS = 2**22  # that are converted to float64 at once

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What is known about a dataset before it is loaded.

    Attributes:
        splits: Number of examples in each split.
        shape: Shape of one example; for text, the number of tokens.
        text: Whether examples are tokens.
        language: Whether the target is the next token at every position.
        is_regression: Whether targets are numbers instead of classes.
    """

    splits: Mapping[str, int]
    shape: Shape
    text: bool = False
    language: bool = False
    is_regression: bool = False


@dataclasses.dataclass(frozen=True)
class LabeledArrays:
    """Examples ``x`` [n, ...] and their targets ``y`` [n] or [n, ...]."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def subset(self, index: slice | np.ndarray) -> "LabeledArrays":
        """The examples that a slice or an array of positions selects."""
        return LabeledArrays(self.x[index], self.y[index])


def stack_examples(rows: list[np.ndarray], labels: list[int]) -> LabeledArrays:
    """Examples [n, features] and labels [n] int32, from one row and one label for each example."""
    return LabeledArrays(np.stack(rows), np.array(labels, np.int32))


@dataclasses.dataclass(frozen=True)
class SelectedSplits:
    """The examples to train on and those to evaluate on."""

    train: LabeledArrays
    evaluation: LabeledArrays


class ExampleSource(Protocol):
    """Examples that are decoded one at a time, when they are needed."""

    def __len__(self) -> int: ...

    def read(self, index: int, rng: np.random.Generator | None) -> tuple[np.ndarray, int]:
        """Decode one example.

        Args:
            index: Position of the example in the split.
            rng: Source of random augmentation; None decodes without augmentation.

        Returns:
            The features [features] and the label.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and evaluation examples as flat rows.

    The network reads (row - offset)·scale.

    For a language model, rows are windows of T tokens: ``x`` [n, T] holds values below
    ``vocabulary``, ``y`` [n, T] the next token at every position, and ``classes`` is the
    vocabulary size.

    Attributes:
        name: Name of the dataset.
        version: Version of the dataset.
        split: Split or slice that the training examples come from.
        x: Training examples [n, features] of any dtype; a sample of them if they are streamed.
        y: Training targets [n] int32. For regression, [n, outputs] float32.
        eval_x: Evaluation examples, like ``x``.
        eval_y: Evaluation targets, like ``y``.
        shape: Shape of one example before it is flattened.
        classes: Number of classes. For regression, the number of outputs.
        offset: Subtracted from each row: one number, or one for each feature [1, features].
        scale: Factor after the offset, with the same shape.
        vocabulary: Number of tokens; 0 if rows are numbers.
        symbols: Characters or words by token number. For padded texts, by token number less 1.
        padded: Whether token 0 fills rows after the end of a text.
        train_source: All training examples, if they are streamed.
        eval_source: All evaluation examples, if they are streamed.
    """

    name: str
    version: str
    split: str
    x: np.ndarray
    y: np.ndarray
    eval_x: np.ndarray
    eval_y: np.ndarray
    shape: Shape
    classes: int
    offset: float | np.ndarray = 0.0
    scale: float | np.ndarray = 1.0
    vocabulary: int = 0
    symbols: str | tuple[str, ...] = ""
    padded: bool = False
    train_source: ExampleSource | None = None
    eval_source: ExampleSource | None = None

    @property
    def examples(self) -> int:
        """Number of training examples."""
        if self.train_source is not None:
            return len(self.train_source)
        return len(self.x)

    @property
    def language(self) -> bool:
        """Whether every position has a target, the next token."""
        return self.vocabulary > 0 and self.y.ndim == 2

    @property
    def is_regression(self) -> bool:
        """Whether targets are numbers instead of classes."""
        return self.y.dtype.kind == "f"

    @property
    def mean_square(self) -> float:
        """The mean square of an input element: q of the input layer in mean-field theory.

        1 for tokens: a token selects one row of the embedding without scaling it.
        """
        if self.vocabulary:
            return 1.0
        square_sums = []
        for block in _iter_float64_blocks(self.x):
            inputs = (block - self.offset) * self.scale
            square_sums.append(float((inputs**2).sum()))
        return sum(square_sums) / self.x.size

    @property
    def unigram_entropy(self) -> float:
        """-Σ p log p in nats, with p the frequencies of the training targets.

        This is the loss of the best prediction that ignores the input.
        """
        counts = np.bincount(self.y.ravel(), minlength=self.classes)
        frequencies = counts[counts > 0] / self.y.size
        return float(-(frequencies * np.log(frequencies)).sum())

    @property
    def class_counts(self) -> list[int] | None:
        """Training examples of each class; None without classes or if examples are streamed."""
        if self.language or self.is_regression or self.train_source is not None:
            return None
        return np.bincount(self.y, minlength=self.classes).tolist()

    def fingerprint(self) -> str:
        """A hash of all examples and targets, in order, and of the symbols that tokens stand for.

        For streamed data, it covers a sample of the examples and their number.
        """
        symbols = "\0".join(self.symbols) if self.vocabulary else ""
        digest = hashlib.sha256(symbols.encode())
        for array in (self.x, self.y, self.eval_x, self.eval_y):
            digest.update(np.ascontiguousarray(array).tobytes())
        if self.train_source is not None and self.eval_source is not None:
            sizes = f"{len(self.train_source)} {len(self.eval_source)}"
            digest.update(sizes.encode())
        return digest.hexdigest()[:16]

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that the compiled program reads, by name.

        For streamed data, only those that stay the same in every step.
        """
        standardization = {
            "offset": np.asarray(self.offset, np.float32),
            "scale": np.asarray(self.scale, np.float32),
        }
        if self.train_source is not None:
            return standardization
        examples = {
            "x": self.x,
            "y": self.y,
            "eval_x": self.eval_x,
            "eval_y": self.eval_y,
        }
        return examples | standardization


def make_standardized_dataset(
    selected: SelectedSplits,
    *,
    name: str,
    version: str,
    split: str,
    shape: Shape,
    classes: int,
) -> Dataset:
    """A dataset in memory, standardized over all elements of the training examples.

    Args:
        selected: Training and evaluation examples, with ``x`` [n, features].
        name: Name of the dataset.
        version: Version of the dataset.
        split: Split or slice that the training examples come from.
        shape: Shape of one example before it is flattened.
        classes: Number of classes. For regression, the number of outputs.
    """
    offset, scale = fit_standardization(selected.train.x)
    return Dataset(
        name=name,
        version=version,
        split=split,
        x=selected.train.x,
        y=selected.train.y,
        eval_x=selected.evaluation.x,
        eval_y=selected.evaluation.y,
        shape=shape,
        classes=classes,
        offset=offset,
        scale=scale,
    )


def select_splits(
    data: SplitData,
    sizes: Mapping[str, int],
    read: Callable[[str], LabeledArrays],
    classes: int = 0,
) -> SelectedSplits:
    """Select the examples that the settings ask for.

    A fraction ``data.label_noise`` of the training labels is replaced by random ones.

    Args:
        data: The settings; ``split``, ``eval_split``, ``limit`` and ``label_noise`` are used.
        sizes: Number of examples in each split.
        read: Reads all examples of a split.
        classes: Number of classes; 0 if targets are not class labels.

    Raises:
        ValueError: There is no such split, or its examples have no labels.
    """
    split, part = parse_split(data.split, sizes)
    eval_split, eval_part = parse_split(data.eval_split, sizes, "data.eval_split")
    whole = read(split)
    eval_whole = whole if eval_split == split else read(eval_split)
    train = whole.subset(part)
    evaluation = eval_whole.subset(eval_part)
    if classes:
        _check_labels(train.y, "data.split", data.split)
        _check_labels(evaluation.y, "data.eval_split", data.eval_split)
    # Noise comes before the limit, so a limit does not change the labels of the examples it keeps.
    label_noise = getattr(data, "label_noise", 0.0)
    labels = add_label_noise(train.y, classes, label_noise)
    noisy = LabeledArrays(train.x, labels)
    return SelectedSplits(noisy.subset(slice(data.limit)), evaluation)


def _check_labels(
    labels: np.ndarray,
    path: str,
    split: str,
) -> None:
    """Raises ValueError for negative labels: TFDS marks examples without a label with -1."""
    if labels.dtype.kind != "f" and labels.min() < 0:
        raise ValueError(f"{path} must have labels: those of {split} are missing")


def add_label_noise(
    labels: np.ndarray,
    classes: int,
    fraction: float,
) -> np.ndarray:
    """Replace a fraction of the labels [n] by uniformly random classes, which may be the right one.

    The random numbers are the same for every run, and each depends only on the example's position.
    So a larger fraction keeps the replacements of a smaller one.

    Args:
        labels: Class labels [n].
        classes: Number of classes.
        fraction: Expected fraction of labels to replace, between 0 and 1.

    Returns:
        The labels [n] with noise.

    References:
        Zhang et al., Understanding deep learning requires rethinking generalization, 2017, §2.1.
    """
    if not fraction:
        return labels
    generator = np.random.default_rng(1)
    rank = generator.random(len(labels))
    replacements = generator.integers(classes, size=len(labels), dtype=labels.dtype)
    return np.where(rank < fraction, replacements, labels)


def fit_standardization(rows: np.ndarray) -> tuple[float, float]:
    """The offset and scale that give the rows mean 0 and standard deviation 1 over all elements."""
    sums = []
    for block in _iter_float64_blocks(rows):
        sums.append(float(block.sum()))
    offset = sum(sums) / rows.size
    square_sums = []
    for block in _iter_float64_blocks(rows):
        squares = (block - offset) ** 2
        square_sums.append(float(squares.sum()))
    variance = sum(square_sums) / rows.size
    deviation = max(math.sqrt(variance), math.ulp(1.0))
    return offset, 1 / deviation


def fit_standardization_per_feature(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The offsets and scales [1, features] that give each feature mean 0 and standard deviation 1.

    A feature that has the same value in all rows is not scaled.
    """
    num_rows, num_features = rows.shape
    total = np.zeros((1, num_features))
    for block in _iter_float64_blocks(rows):
        total += block.sum(axis=0, keepdims=True)
    offset = total / num_rows
    square_total = np.zeros((1, num_features))
    for block in _iter_float64_blocks(rows):
        squares = (block - offset) ** 2
        square_total += squares.sum(axis=0, keepdims=True)
    variance = square_total / num_rows
    positive_variance = np.where(variance > 0, variance, 1)
    return offset, 1 / np.sqrt(positive_variance)


def _iter_float64_blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of rows as float64. All of CIFAR-10 at once would take a gigabyte."""
    block_size = max(1, MAX_BLOCK_ELEMENTS // rows.shape[1])
    for start in range(0, len(rows), block_size):
        block = rows[start : start + block_size]
        yield block.astype(np.float64)
