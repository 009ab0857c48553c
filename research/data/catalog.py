"""Image and text sets of the TFDS catalogue, decoded from where they lie prepared."""

import contextlib
import functools
import math
from collections.abc import Iterator

import numpy as np

from research.config.data_options import Data
from research.data.dataset import Columns, Dataset, Known, chosen, standardised
from research.data.decoded import all_examples, kept, read_rows, source
from research.data.pictures import fitted
from research.data.prepared import PreparedDataset, dataset_name, find
from research.data.splits import cut
from research.data.streamed import SAMPLE, Recorded, sampled
from research.data.text import Vocabulary, make_vocabulary, windows


def describe(data: Data) -> Known:
    """What is known of a prepared dataset from its description alone; of a text without a label, by reading it."""
    found = find(data)
    with _named_when_damaged(found, data):
        return _described(found, data)


def _described(found: PreparedDataset, data: Data) -> Known:
    if found.image:
        return Known(found.splits, _shape(found, data))
    if found.label:
        return Known(found.splits, (data.length,), text=True)
    sizes = {
        split: (len(_tokens(found, data.unit.name, split)) - 1) // data.length
        for split in found.splits
    }
    if not min(sizes.values()):
        raise ValueError(
            f"data.length must be shorter than the splits of {data.name.name}, got {data.length}"
        )
    return Known(sizes, (data.length,), text=True, language=True)


def load_catalog(data: Data) -> Dataset:
    """A prepared dataset: in memory, or streamed where its images are larger than ``data.in_memory_limit``."""
    found = find(data)
    with _named_when_damaged(found, data):
        return _load_images(found, data) if found.image else _load_text(found, data)


@contextlib.contextmanager
def _named_when_damaged(found: PreparedDataset, data: Data) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        name = dataset_name(data)
        raise ValueError(
            f"data={name}: the files in {found.folder} are damaged; remove it and prepare it again"
        ) from error


def _load_images(found: PreparedDataset, data: Data) -> Dataset:
    shape = _shape(found, data)
    name = dataset_name(data)
    about = name, found.version, data.split
    if (
        data.resized_crop
        or math.prod(shape) * sum(found.splits.values()) > data.in_memory_limit * 1e9
    ):
        records = _recorded(found, data, shape)
        rows = *sampled(records[0], SAMPLE), *sampled(records[1], SAMPLE)
        numbers = standardised(rows[0])
        return Dataset(
            *about, *rows, shape, found.classes, *numbers, train=records[0], held_out=records[1]
        )
    x, y, eval_x, eval_y = chosen(
        data, found.splits, functools.partial(_pixels, found, shape), found.classes
    )
    if x.shape[1] != math.prod(shape):
        raise ValueError(
            f"{name} in {found.folder} must hold images of {math.prod(shape)} numbers, got {x.shape[1]}"
        )
    return Dataset(*about, x, y, eval_x, eval_y, shape, found.classes, *standardised(x))


def _pixels(found: PreparedDataset, shape: tuple[int, ...], split: str) -> Columns:
    if (found.image, found.label) == ("image", "label") and found.shape == shape:
        return read_rows(found.folder, split, found.builder)

    def decode() -> dict[str, np.ndarray]:
        examples = all_examples(source(found.builder, split))
        x = np.stack([fitted(example[found.image], shape).reshape(-1) for example in examples])
        return {"x": x, "y": np.array([example[found.label] for example in examples], np.int32)}

    columns = kept(
        found.folder / f"decoded-{split}-{found.label}-{shape[0]}x{shape[1]}.npz", decode
    )
    return columns["x"], columns["y"]


def _recorded(
    found: PreparedDataset, data: Data, shape: tuple[int, ...]
) -> tuple[Recorded, Recorded]:
    (split, part) = cut(data.split, found.splits)
    (eval_split, eval_part) = cut(data.eval_split, found.splits, "data.eval_split")
    features = (found.image, found.label, found.classes)
    train = source(found.builder, split)
    held_out = source(found.builder, eval_split)
    return (
        Recorded(train, part, data.limit, shape, *features, data.label_noise, data.resized_crop),
        Recorded(held_out, eval_part, None, shape, *features),
    )


def _load_text(found: PreparedDataset, data: Data) -> Dataset:
    name = dataset_name(data)
    known = describe(data)
    if found.label:
        vocabulary = _vocabulary(found, data.unit.name, True)
        classes = found.classes

        def read(split: str) -> Columns:
            texts, labels = _texts(found, split)
            return vocabulary.padded_rows(texts, data.length), labels
    else:
        vocabulary = _vocabulary(found, data.unit.name, False)
        classes = len(vocabulary)

        def read(split: str) -> Columns:
            return windows(_tokens(found, data.unit.name, split), data.length)

    columns = chosen(data, known.splits, read, classes)
    about = name, found.version, data.split
    return Dataset(*about, *columns, known.shape, classes, 0.0, 1.0, *vocabulary.described())


@functools.lru_cache(maxsize=4)
def _texts(found: PreparedDataset, split: str) -> tuple[list[str], np.ndarray]:
    """A split's texts and labels [n], zeros where there is no label."""

    def decode() -> dict[str, np.ndarray]:
        examples = all_examples(source(found.builder, split))
        texts = [bytes(example[found.text]) for example in examples]
        labels = [example[found.label] if found.label else 0 for example in examples]
        return {
            "text": np.frombuffer(b"".join(texts), np.uint8),
            "ends": np.cumsum([len(text) for text in texts]),
            "y": np.array(labels, np.int32),
        }

    columns = kept(found.folder / f"decoded-{split}-{found.label or found.text}.npz", decode)
    whole, ends = columns["text"].tobytes(), [0, *columns["ends"].tolist()]
    texts = [
        whole[start:end].decode(errors="replace")
        for start, end in zip(ends, ends[1:], strict=False)
    ]
    return texts, columns["y"]


@functools.lru_cache(maxsize=4)
def _vocabulary(found: PreparedDataset, unit: str, padded: bool) -> Vocabulary:
    """That of the whole training split, whatever is left of it."""
    return make_vocabulary(_texts(found, "train")[0], unit, padded=padded)


@functools.lru_cache(maxsize=8)
def _tokens(found: PreparedDataset, unit: str, split: str) -> np.ndarray:
    """All of a split's texts one behind the other."""
    return _vocabulary(found, unit, False).encode("\n\n".join(_texts(found, split)[0]))


def _shape(found: PreparedDataset, data: Data) -> tuple[int, ...]:
    """Height, width and channels of what the network reads.

    Raises:
        ValueError: images are not all alike, and there is no size to bring them to.
    """
    if data.size:
        return data.size, data.size, found.shape[-1]
    if 0 in found.shape:
        raise ValueError(
            f"data.size must be given: the images of {dataset_name(data)} are of many sizes"
        )
    return found.shape
