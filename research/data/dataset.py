"""A dataset ready to train on: flat rows and targets, and how rows become network inputs."""

import dataclasses
import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from research.config.data_options import SplitData
from research.data.splits import limit_positions, parse_split, part_positions
from research.data.standardize import (
    NOT_STANDARDIZED,
    Standardization,
    fit_standardization,
)

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
        whole_rows: Whether examples are rows of whole numbers in a user's file.
        bytes_per_number: Size of a stored number of an example.
    """

    splits: Mapping[str, int]
    shape: Shape
    text: bool = False
    language: bool = False
    is_regression: bool = False
    whole_rows: bool = False
    bytes_per_number: int = 1


@dataclasses.dataclass(frozen=True)
class LabeledArrays:
    """Examples ``x`` [n, ...] and their targets ``y`` [n] or [n, ...].

    Attributes:
        x: The examples.
        y: Their targets.
        source_hashes: A hash [n] of each text before it was made tokens, or of each image before it
            was resized; None if equal examples were equal before, too, or if it is not known.
    """

    x: np.ndarray
    y: np.ndarray
    source_hashes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    def subset(self, index: slice | np.ndarray) -> "LabeledArrays":
        """The examples that a slice or an array of positions selects."""
        hashes = self.source_hashes
        selected_hashes = None if hashes is None else hashes[index]
        return LabeledArrays(self.x[index], self.y[index], selected_hashes)


def hash_sources(sources: Iterable[Hashable]) -> np.ndarray:
    """A hash [n] of each example before it is converted, for ``LabeledArrays``."""
    return np.array([hash(source) for source in sources], np.int64)


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

    @property
    def labels(self) -> np.ndarray | None:
        """The labels [n]; None where an example has to be decoded to know its label."""
        ...

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

    The network reads the rows as ``standardization`` gives them.

    For a language model, rows are windows of T tokens: ``x`` [n, T] holds values below
    ``vocabulary``, ``y`` [n, T] the next token at every position, and ``classes`` is the
    vocabulary size.

    Attributes:
        name: Name of the dataset.
        version: Version of the dataset.
        split: Split or slice that the training examples come from.
        x: Training examples [n, features] of any dtype; a sample of them if they are streamed.
        y: Training targets [n] int32. For regression, [n, outputs] of real numbers.
        eval_x: Evaluation examples, like ``x``.
        eval_y: Evaluation targets, like ``y``.
        source_hashes: Those of the training examples, as in ``LabeledArrays``.
        eval_source_hashes: Those of the evaluation examples.
        shape: Shape of one example before it is flattened.
        classes: Number of classes. For regression, the number of outputs.
        standardization: Offset and scale of the rows.
        vocabulary: Number of tokens; 0 if rows are numbers.
        class_names: Names of the classes by number; empty if the numbers are their names.
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
    standardization: Standardization = NOT_STANDARDIZED
    class_names: Sequence[str] = ()
    vocabulary: int = 0
    symbols: str | tuple[str, ...] = ""
    padded: bool = False
    source_hashes: np.ndarray | None = None
    eval_source_hashes: np.ndarray | None = None
    train_source: ExampleSource | None = None
    eval_source: ExampleSource | None = None

    @property
    def examples(self) -> int:
        """Number of training examples."""
        if self.train_source is not None:
            return len(self.train_source)
        return len(self.x)

    @property
    def eval_examples(self) -> int:
        """Number of evaluation examples."""
        if self.eval_source is not None:
            return len(self.eval_source)
        return len(self.eval_x)

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
        return self.standardization.mean_square(self.x)

    @property
    def unigram_entropy(self) -> float:
        """-Σ p log p in nats, with p the frequencies of the training targets.

        This is the loss of the best prediction that ignores the input.
        """
        counts = np.asarray(self.token_counts)
        frequencies = counts[counts > 0] / self.y.size
        return float(-(frequencies * np.log(frequencies)).sum())

    @property
    def token_counts(self) -> list[int]:
        """How often each token is a training target of a language."""
        return np.bincount(self.y.ravel(), minlength=self.classes).tolist()

    @property
    def class_counts(self) -> list[int] | None:
        """Training examples of each class; None without classes or if they are not known."""
        return self._count_classes(self.y, self.train_source)

    @property
    def eval_class_counts(self) -> list[int] | None:
        """Evaluation examples of each class, like ``class_counts``."""
        return self._count_classes(self.eval_y, self.eval_source)

    def _count_classes(
        self,
        y: np.ndarray,
        source: ExampleSource | None,
    ) -> list[int] | None:
        if self.language or self.is_regression:
            return None
        labels = y
        if source is not None and len(source) > len(y):  # then y is that of a sample
            labels = source.labels
        if labels is None:
            return None
        return np.bincount(labels, minlength=self.classes).tolist()

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

    def arrays(self, dtype: type[np.floating] = np.float32) -> dict[str, np.ndarray]:
        """The arrays that the compiled program reads, by name.

        Bytes, tokens and streamed examples are passed as they are stored, and the program
        standardizes numbers. All other inputs are standardized here, in float64, and then cast.

        Args:
            dtype: Type of real numbers.

        Returns:
            ``offset`` and ``scale``, and unless examples are streamed ``x``, ``y``, ``eval_x`` and
            ``eval_y``.
        """
        is_streamed = self.train_source is not None
        is_bytes = self.x.dtype == np.uint8 and self.eval_x.dtype == np.uint8
        is_stored_small = bool(self.vocabulary) or is_bytes
        is_passed_as_stored = is_streamed or is_stored_small
        standardization = self.standardization if is_passed_as_stored else NOT_STANDARDIZED
        arrays = {
            "offset": np.asarray(standardization.offset, dtype),
            "scale": np.asarray(standardization.scale, dtype),
        }
        if is_streamed:
            return arrays
        examples = {"x": self.x, "eval_x": self.eval_x}
        for name, rows in examples.items():
            arrays[name] = rows
            if not is_passed_as_stored:
                arrays[name] = self.standardization.apply(rows, dtype)
        targets = {"y": self.y, "eval_y": self.eval_y}
        for name, values in targets.items():
            arrays[name] = values.astype(dtype) if self.is_regression else values
        return arrays


def make_standardized_dataset(
    selected: SelectedSplits,
    *,
    name: str,
    version: str,
    split: str,
    shape: Shape,
    classes: int,
    class_names: Sequence[str] = (),
) -> Dataset:
    """A dataset in memory, standardized over all elements of the training examples.

    Args:
        selected: Training and evaluation examples, with ``x`` [n, features].
        name: Name of the dataset.
        version: Version of the dataset.
        split: Split or slice that the training examples come from.
        shape: Shape of one example before it is flattened.
        classes: Number of classes. For regression, the number of outputs.
        class_names: Names of the classes by number; empty if the numbers are their names.

    Raises:
        ValueError: All elements of the training examples are the same number.
    """
    standardization = fit_standardization(selected.train.x)
    check_not_constant(name, standardization)
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
        standardization=standardization,
        class_names=class_names,
        source_hashes=selected.train.source_hashes,
        eval_source_hashes=selected.evaluation.source_hashes,
    )


def check_not_constant(name: str, standardization: Standardization) -> None:
    """Check that the inputs of a dataset vary.

    Raises:
        ValueError: They are constant, so no network can learn from them.
    """
    if not standardization.is_constant:
        return
    if isinstance(standardization.offset, float):
        values = f"all of them are {standardization.offset:g}"
    else:
        values = "each feature has one value in all examples"
    raise ValueError(f"the training inputs of data={name} must vary, but {values}")


def select_splits(
    data: SplitData,
    sizes: Mapping[str, int],
    read: Callable[[str], LabeledArrays],
    classes: int = 0,
    *,
    shuffle: bool = False,
) -> SelectedSplits:
    """Select the examples that the settings ask for.

    A fraction ``data.label_noise`` of the training labels is replaced by random ones.

    Args:
        data: The settings; ``split``, ``eval_split``, ``limit`` and ``label_noise`` are used.
        sizes: Number of examples in each split.
        read: Reads all examples of a split.
        classes: Number of classes; 0 if targets are not class labels.
        shuffle: Whether the order of the examples may depend on their targets: then parts of a
            split are cut from a fixed random order.

    Raises:
        ValueError: There is no such split, or its examples have no labels.
    """
    split, part = parse_split(data.split, sizes)
    eval_split, eval_part = parse_split(data.eval_split, sizes, "data.eval_split")
    whole = read(split)
    eval_whole = whole if eval_split == split else read(eval_split)
    train = whole.subset(part_positions(part, len(whole), shuffle=shuffle))
    evaluation = eval_whole.subset(part_positions(eval_part, len(eval_whole), shuffle=shuffle))
    if classes:
        _check_labels(train.y, "data.split", data.split)
        _check_labels(evaluation.y, "data.eval_split", data.eval_split)
    # Noise comes before the limit, so a limit does not change the labels of the examples it keeps.
    label_noise = getattr(data, "label_noise", 0.0)
    labels = add_label_noise(train.y, classes, label_noise)
    noisy = dataclasses.replace(train, y=labels)
    kept = limit_positions(data.limit, len(noisy), shuffle=shuffle)
    return SelectedSplits(noisy.subset(kept), evaluation)


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
