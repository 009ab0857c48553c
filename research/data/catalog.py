"""Image and text datasets of the TFDS catalogue, decoded from their prepared files."""

import contextlib
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from research.data.dataset import (
    Dataset,
    DatasetInfo,
    LabeledArrays,
    Shape,
    make_standardized_dataset,
    select_splits,
    stack_examples,
)
from research.data.images import center_crop_and_resize
from research.data.prepared import PreparedDataset, dataset_name, find_or_prepare
from research.data.streaming import ImageFormat, make_streamed_dataset, must_stream
from research.data.text import (
    LabeledTexts,
    Vocabulary,
    encode_texts,
    make_text_dataset,
    make_vocabulary,
    make_windows,
)
from research.data.tfds_directory import not_permitted
from research.data.tfds_reader import (
    Arrays,
    load_cached_arrays,
    load_cached_examples,
    open_split,
    read_all_examples,
    read_image_rows,
)


def describe(data: Any) -> DatasetInfo:
    """What the description of a prepared dataset says.

    Texts without labels are also read, to count their windows.

    Raises:
        ValueError: The dataset cannot be prepared, it is damaged, or the settings do not fit it.
    """
    prepared = find_or_prepare(data)
    with _explain_damage(prepared, data):
        return _describe(prepared, data)


def load_catalog(data: Any) -> Dataset:
    """A prepared dataset: in memory, or streamed if it is larger than ``data.in_memory_limit``.

    Raises:
        ValueError: The dataset cannot be prepared, it is damaged, or the settings do not fit it.
    """
    prepared = find_or_prepare(data)
    with _explain_damage(prepared, data):
        if prepared.image:
            return _load_images(prepared, data)
        if prepared.label:
            return _load_labeled_texts(prepared, data)
        return _load_windows(prepared, data)


@contextlib.contextmanager
def _explain_damage(prepared: PreparedDataset, data: Any) -> Iterator[None]:
    """Turn errors of TFDS and the file system into one that says what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        for file in sorted(prepared.folder.iterdir()):
            _check_permission(file)
        raise ValueError(
            f"data={dataset_name(data)}: the files in {prepared.folder} are damaged; "
            "remove it and prepare it again"
        ) from error


def _check_permission(file: Path) -> None:
    """Raises ValueError if a file must not be read."""
    try:
        file.open("rb").close()
    except PermissionError as error:
        raise not_permitted(error, file) from None


def _describe(prepared: PreparedDataset, data: Any) -> DatasetInfo:
    if prepared.image:
        return DatasetInfo(
            splits=prepared.splits,
            shape=_image_shape(prepared, data),
        )
    if prepared.label:
        return DatasetInfo(
            splits=prepared.splits,
            shape=(data.length,),
            text=True,
        )
    return _describe_windows(prepared, data)


def _describe_windows(prepared: PreparedDataset, data: Any) -> DatasetInfo:
    sizes = {}
    for split in prepared.splits:
        tokens = _encode_split(prepared, data.unit.name, split)
        sizes[split] = (len(tokens) - 1) // data.length
    if min(sizes.values()) == 0:
        raise ValueError(
            f"data.length must be shorter than the splits of {data.name.name}, got {data.length}"
        )
    return DatasetInfo(
        splits=sizes,
        shape=(data.length,),
        text=True,
        language=True,
    )


def _load_images(prepared: PreparedDataset, data: Any) -> Dataset:
    name = dataset_name(data)
    shape = _image_shape(prepared, data)
    if must_stream(data, math.prod(shape), prepared.splits):
        return make_streamed_dataset(
            data,
            prepared.splits,
            functools.partial(open_split, prepared.make_builder),
            ImageFormat(shape, prepared.classes, prepared.image, prepared.label),
            name=name,
            version=prepared.version,
            shuffle=prepared.in_source_order,
        )
    read = functools.partial(_read_images, prepared, shape)
    selected = select_splits(
        data,
        prepared.splits,
        read,
        prepared.classes,
        shuffle=prepared.in_source_order,
    )
    expected = math.prod(shape)
    got = selected.train.x.shape[1]
    if got != expected:
        raise ValueError(
            f"{name} in {prepared.folder} must hold images of {expected} numbers, got {got}"
        )
    return make_standardized_dataset(
        selected,
        name=name,
        version=prepared.version,
        split=data.split,
        shape=shape,
        classes=prepared.classes,
    )


def _read_images(
    prepared: PreparedDataset,
    shape: Shape,
    split: str,
) -> LabeledArrays:
    """All images of a split as rows [n, features], and their labels [n] int32."""
    has_usual_names = prepared.image == "image" and prepared.label == "label"
    if has_usual_names and prepared.shape == shape:
        return read_image_rows(prepared.folder, split, prepared.make_builder)

    def decode() -> LabeledArrays:
        rows = []
        labels = []
        for example in read_all_examples(open_split(prepared.make_builder, split)):
            image = center_crop_and_resize(example[prepared.image], shape)
            rows.append(image.reshape(-1))
            labels.append(example[prepared.label])
        return stack_examples(rows, labels)

    file_name = f"decoded-{split}-{prepared.label}-{shape[0]}x{shape[1]}.npz"
    return load_cached_examples(prepared.folder / file_name, decode)


def _load_labeled_texts(prepared: PreparedDataset, data: Any) -> Dataset:
    vocabulary = _build_vocabulary(prepared, data.unit.name, padded=True)

    def read(split: str) -> LabeledArrays:
        examples = _read_texts(prepared, split)
        source = f"data={dataset_name(data)}, {split}"
        return encode_texts(examples, vocabulary, data.length, source=source)

    return make_text_dataset(
        data,
        _describe(prepared, data),
        vocabulary,
        read,
        name=dataset_name(data),
        version=prepared.version,
        classes=prepared.classes,
        shuffle=prepared.in_source_order,
    )


def _load_windows(prepared: PreparedDataset, data: Any) -> Dataset:
    """Windows of all texts of a split, with the next token at every position as target."""
    info = _describe(prepared, data)
    vocabulary = _build_vocabulary(prepared, data.unit.name, padded=False)

    def read(split: str) -> LabeledArrays:
        tokens = _encode_split(prepared, data.unit.name, split)
        return make_windows(tokens, data.length)

    return make_text_dataset(
        data,
        info,
        vocabulary,
        read,
        name=dataset_name(data),
        version=prepared.version,
        classes=len(vocabulary),
    )


@functools.lru_cache(maxsize=4)
def _read_texts(prepared: PreparedDataset, split: str) -> LabeledTexts:
    """A split's texts and labels [n]; the labels are zeros if there are none."""

    def decode() -> Arrays:
        texts = []
        labels = []
        for example in read_all_examples(open_split(prepared.make_builder, split)):
            texts.append(bytes(example[prepared.text]))
            labels.append(example[prepared.label] if prepared.label else 0)
        return {
            "text": np.frombuffer(b"".join(texts), np.uint8),
            "ends": np.cumsum([len(text) for text in texts]),
            "y": np.array(labels, np.int32),
        }

    target = prepared.label or prepared.text
    arrays = load_cached_arrays(prepared.folder / f"decoded-{split}-{target}.npz", decode)
    whole = arrays["text"].tobytes()
    texts = []
    start = 0
    for end in arrays["ends"].tolist():
        texts.append(whole[start:end].decode(errors="replace"))
        start = end
    return LabeledTexts(texts, arrays["y"])


@functools.lru_cache(maxsize=4)
def _build_vocabulary(
    prepared: PreparedDataset,
    unit: str,
    *,
    padded: bool,
) -> Vocabulary:
    """The vocabulary of the whole training split, whatever part of it is selected."""
    examples = _read_texts(prepared, "train")
    return make_vocabulary(examples.texts, unit, padded=padded)


@functools.lru_cache(maxsize=8)
def _encode_split(
    prepared: PreparedDataset,
    unit: str,
    split: str,
) -> np.ndarray:
    """The tokens [n] of all texts of a split, joined."""
    vocabulary = _build_vocabulary(prepared, unit, padded=False)
    examples = _read_texts(prepared, split)
    return vocabulary.encode("\n\n".join(examples.texts))


def _image_shape(prepared: PreparedDataset, data: Any) -> Shape:
    """Height, width and channels of what the network reads.

    Raises:
        ValueError: The images have different sizes, and ``data.size`` is not set.
    """
    if data.size:
        return data.size, data.size, prepared.shape[-1]
    if 0 in prepared.shape:
        raise ValueError(
            f"data.size must be given: the images of {dataset_name(data)} have different sizes"
        )
    return prepared.shape
