"""Examples that do not fit into memory: read, decoded and batched while the device computes.

The order is that of data in memory. The position in the run determines which example is read and
how it is augmented. So a run resumes from its step number alone, and every host can read its part
of each batch.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from research.config.data_options import StreamedImages
from research.data.dataset import (
    Dataset,
    ExampleSource,
    LabeledArrays,
    Shape,
    add_label_noise,
    check_not_constant,
    stack_examples,
)
from research.data.images import center_crop_and_resize, random_resized_crop
from research.data.splits import limit_positions, parse_split, part_positions
from research.data.standardize import fit_standardization
from research.data.surprises import report_shared_examples
from research.data.tfds_reader import silence_absl

SAMPLE_SIZE = 2048  # examples that offset, scale and fingerprint of streamed data come from
MAX_SAMPLE_BYTES = 2**30  # fewer examples where each is large, but at least a few
MIN_SAMPLE_SIZE = 16
MAX_CHUNK_BYTES = 2**26
NUM_THREADS = 8  # that read examples
PREFETCHED_BATCHES = 8
PRESENT_LABEL = -1  # marks an example that keeps its label

EpochOrder = Callable[[int], np.ndarray]  # from an epoch's number to its order of examples [n]
Batch = tuple[np.ndarray, np.ndarray]  # x [b, features] and y [b] int32


class RecordSource(Protocol):
    """Raw examples by position, each a dictionary of its features."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class LabeledRecords(RecordSource, Protocol):
    """Raw examples whose labels [n] are known before they are read."""

    labels: np.ndarray


@dataclass(frozen=True)
class ImageFormat:
    """How a raw example becomes an image and a label.

    Attributes:
        shape: Height, width and channels that every image is resized to.
        classes: Number of classes.
        image_key: Name of the feature that holds the image.
        label_key: Name of the feature that holds the label.
    """

    shape: Shape
    classes: int
    image_key: str = "image"
    label_key: str = "label"


class ImageSource:
    """Images of a split or of files, in their order, resized to one shape.

    Attributes:
        positions: Positions [n] of the images among the raw examples.
    """

    def __init__(
        self,
        records: RecordSource,
        part: slice,
        image_format: ImageFormat,
        *,
        limit: int | None = None,
        label_noise: float = 0.0,
        resized_crop: bool = False,
        shuffle: bool = False,
    ):
        """Select images.

        Args:
            records: The raw examples of the whole split.
            part: The examples of the split to read.
            image_format: How a raw example becomes an image and a label.
            limit: Number of examples to keep, from the first on; None keeps all.
            label_noise: Fraction of labels to replace by random ones.
            resized_crop: Whether training reads a random part of each image.
            shuffle: Whether the part and the limit are cut from a fixed random order.
        """
        self._records = records
        self._format = image_format
        self._resized_crop = resized_crop
        size = len(records)
        positions = np.arange(size)[part_positions(part, size, shuffle=shuffle)]
        present = np.full(len(positions), PRESENT_LABEL, np.int32)
        labels = add_label_noise(present, image_format.classes, label_noise)
        kept = limit_positions(limit, len(positions), shuffle=shuffle)
        self.positions = positions[kept]
        self._labels = labels[kept]

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def labels(self) -> np.ndarray | None:
        """The labels [n] with label noise; None if the records do not tell theirs."""
        if not isinstance(self._records, LabeledRecords):
            return None
        present = self._records.labels[self.positions]
        return np.where(self._labels == PRESENT_LABEL, present, self._labels)

    def read(self, index: int, rng: np.random.Generator | None) -> tuple[np.ndarray, int]:
        """Decode one image.

        Args:
            index: Position of the image among those of this source.
            rng: Source of random augmentation; None decodes without augmentation.

        Returns:
            The pixels [features] and the label, with label noise.
        """
        record = self._records[int(self.positions[index])]
        image = record[self._format.image_key]
        if rng is not None and self._resized_crop:
            pixels = random_resized_crop(image, self._format.shape, rng)
        else:
            pixels = center_crop_and_resize(image, self._format.shape)
        label = int(self._labels[index])
        if label == PRESENT_LABEL:
            label = int(record[self._format.label_key])
        return pixels.reshape(-1), label


def must_stream(
    data: StreamedImages,
    bytes_per_image: int,
    sizes: Mapping[str, int],
) -> bool:
    """Whether images are streamed: if they are too large for memory, or cropped at random.

    Args:
        data: The settings; ``resized_crop`` and ``in_memory_limit`` are used.
        bytes_per_image: Size of a decoded image.
        sizes: Number of examples in each split.
    """
    decoded_bytes = bytes_per_image * sum(sizes.values())
    return data.resized_crop or decoded_bytes > data.in_memory_limit * 1e9


def make_streamed_dataset(
    data: StreamedImages,
    sizes: Mapping[str, int],
    open_records: Callable[[str], RecordSource],
    image_format: ImageFormat,
    *,
    name: str,
    version: str,
    shuffle: bool,
    class_names: Sequence[str] = (),
) -> Dataset:
    """A dataset whose images are decoded while the run trains.

    Args:
        data: The settings.
        sizes: Number of examples in each split.
        open_records: Gives the raw examples of a split.
        image_format: How a raw example becomes an image and a label.
        name: Name of the dataset.
        version: Version of the dataset.
        shuffle: Whether parts of a split are cut from a fixed random order.
        class_names: Names of the classes by number; empty if the numbers are their names.

    Raises:
        ValueError: There is no such split, or the images do not vary.
    """
    split, part = parse_split(data.split, sizes)
    eval_split, eval_part = parse_split(data.eval_split, sizes, "data.eval_split")
    train_source = ImageSource(
        open_records(split),
        part,
        image_format,
        limit=data.limit,
        label_noise=data.label_noise,
        resized_crop=data.resized_crop,
        shuffle=shuffle,
    )
    eval_source = ImageSource(
        open_records(eval_split),
        eval_part,
        image_format,
        shuffle=shuffle,
    )
    sample_size = choose_sample_size(math.prod(image_format.shape))
    train_sample = sample_evenly(train_source, sample_size)
    eval_sample = sample_evenly(eval_source, sample_size)
    standardization = fit_standardization(train_sample.x)
    check_not_constant(name, standardization)
    dataset = Dataset(
        name=name,
        version=version,
        split=data.split,
        x=train_sample.x,
        y=train_sample.y,
        eval_x=eval_sample.x,
        eval_y=eval_sample.y,
        shape=image_format.shape,
        classes=image_format.classes,
        standardization=standardization,
        class_names=class_names,
        train_source=train_source,
        eval_source=eval_source,
    )
    is_shared = np.isin(eval_source.positions, train_source.positions)
    if eval_split == split and is_shared.any():
        report_shared_examples(dataset, int(is_shared.sum()))
    else:
        report_shared_examples(dataset)
    return dataset


def choose_sample_size(bytes_per_image: int) -> int:
    """The number of examples that offset, scale and fingerprint come from."""
    num_fitting = MAX_SAMPLE_BYTES // bytes_per_image
    return min(SAMPLE_SIZE, max(MIN_SAMPLE_SIZE, num_fitting))


def count_images_in_memory(
    data: StreamedImages,
    bytes_per_image: int,
    sizes: Mapping[str, int],
    batch_size: int,
) -> int:
    """About how many images are in the host's memory at once, at most.

    Args:
        data: The settings, as for ``must_stream``.
        bytes_per_image: Size of a decoded image.
        sizes: Number of examples in each split.
        batch_size: Number of images in a batch.
    """
    if not must_stream(data, bytes_per_image, sizes):
        return 2 * sum(sizes.values())  # as they are read, and stacked
    sample_size = choose_sample_size(bytes_per_image)
    in_samples = sum(min(size, sample_size) for size in sizes.values())
    return 2 * in_samples + PREFETCHED_BATCHES * batch_size


def sample_evenly(source: ExampleSource, max_examples: int) -> LabeledArrays:
    """At most ``max_examples`` examples at equal distances, without augmentation."""
    count = min(max_examples, len(source))
    last = len(source) - 1
    positions = np.unique(np.linspace(0, last, count, dtype=int))
    rows = []
    labels = []
    with silence_absl():
        for position in positions:
            row, label = source.read(int(position), None)
            rows.append(row)
            labels.append(label)
    return stack_examples(rows, labels)


class ShuffledSource:
    """The training examples in the order in which a run reads them, as a data source for grain.

    Item i is row i mod b of step i // b, where b is the number of rows on this host.
    """

    def __init__(
        self,
        examples: ExampleSource,
        order: EpochOrder,
        batch_size: int,
        seed: int,
        shard: int = 0,
        num_shards: int = 1,
    ):
        """Order the examples.

        Args:
            examples: The training examples.
            order: Gives the order of the examples [n] in an epoch.
            batch_size: Number of examples in a batch, over all hosts.
            seed: Seed of the random augmentation.
            shard: Number of this host.
            num_shards: Number of hosts that share each batch.

        Raises:
            ValueError: The hosts cannot share the batch evenly.
        """
        if batch_size % num_shards:
            raise ValueError(
                f"train.batch_size must be a multiple of the {num_shards} hosts, got {batch_size}"
            )
        self.examples = examples
        self.local_batch_size = batch_size // num_shards
        self._batch_size = batch_size
        self._seed = seed
        self._first_row = shard * self.local_batch_size
        self._steps_per_epoch = len(examples) // batch_size
        self._order = functools.lru_cache(maxsize=4)(order)

    def __len__(self) -> int:
        return 2**40  # training goes on for as long as the run needs examples

    def __getitem__(self, index: int) -> Batch:
        step, local_row = divmod(index, self.local_batch_size)
        epoch, epoch_step = divmod(step, self._steps_per_epoch)
        position = epoch_step * self._batch_size + self._first_row + local_row
        example = int(self._order(epoch)[position])
        rng = np.random.default_rng([self._seed, step, position])
        return _read_as_arrays(self.examples, example, rng)


def iter_batches(source: ShuffledSource, start: int) -> Iterator[Batch]:
    """The batches ``x`` [b, features] and ``y`` [b] int32 of this host from step ``start`` on."""
    import grain

    first_item = start * source.local_batch_size
    remaining = grain.MapDataset.source(source).slice(slice(first_item, None))
    batched = remaining.batch(source.local_batch_size)
    return iter(batched.to_iter_dataset(_read_options()))


class Stream:
    """Batches for the compiled program in chunks of steps, and evaluation examples in blocks."""

    def __init__(
        self,
        train: ShuffledSource,
        evaluation: ExampleSource,
        max_steps: int,
    ):
        """Read the first example to learn the shape of a batch.

        Args:
            train: The training examples in the order in which the run reads them.
            evaluation: The evaluation examples.
            max_steps: Largest number of steps in one chunk. Large examples lower it.
        """
        row, _ = train.examples.read(0, None)
        batch_bytes = row.nbytes * train.local_batch_size
        steps_that_fit = max(1, MAX_CHUNK_BYTES // batch_bytes)
        self.capacity = min(max_steps, steps_that_fit)
        self._train = train
        self._evaluation = evaluation
        self._row_shape = row.shape
        self._row_dtype = row.dtype
        self._next_step = -1
        self._batches: Iterator[Batch] = iter(())

    def chunk(self, start: int, steps: int) -> dict[str, np.ndarray]:
        """The batches of ``steps`` steps from step ``start`` on.

        Args:
            start: Number of the first step. Any other than the next one restarts the reader.
            steps: Number of steps, at most ``capacity``.

        Returns:
            ``x`` [capacity, b, features] and ``y`` [capacity, b] int32; zeros after the last step.
        """
        if start != self._next_step:
            self._batches = iter_batches(self._train, start)
        self._next_step = start + steps
        arrays = self._make_empty_chunk()
        for step in range(steps):
            x, y = next(self._batches)
            arrays["x"][step] = x
            arrays["y"][step] = y
        return arrays

    def _make_empty_chunk(self) -> dict[str, np.ndarray]:
        batch_shape = (self.capacity, self._train.local_batch_size)
        return {
            "x": np.zeros((*batch_shape, *self._row_shape), self._row_dtype),
            "y": np.zeros(batch_shape, np.int32),
        }

    def evaluation_blocks(self) -> Iterator[tuple[float, dict[str, np.ndarray]]]:
        """All evaluation examples once, in blocks.

        Yields:
            The fraction of the evaluation examples in this block, and the block: ``eval_x``
            [b, features] and ``eval_y`` [b] int32.
        """
        import grain

        def read(index: int) -> Batch:
            return _read_as_arrays(self._evaluation, index, None)

        examples = grain.MapDataset.range(len(self._evaluation)).map(read)
        blocks = examples.batch(self.capacity * self._train.local_batch_size)
        for x, y in blocks.to_iter_dataset(_read_options()):
            fraction = len(x) / len(self._evaluation)
            yield fraction, {"eval_x": x, "eval_y": y}


def _read_options() -> Any:
    import grain

    return grain.ReadOptions(num_threads=NUM_THREADS, prefetch_buffer_size=PREFETCHED_BATCHES)


def _read_as_arrays(
    source: ExampleSource,
    index: int,
    rng: np.random.Generator | None,
) -> tuple[np.ndarray, np.ndarray]:
    """One example with its label as an array, which grain stacks into batches."""
    x, label = source.read(index, rng)
    return x, np.asarray(label, np.int32)
