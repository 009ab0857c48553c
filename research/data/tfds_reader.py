"""Reads prepared TFDS datasets; arrays are decoded once and cached next to the files."""

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from research.data.dataset import LabeledArrays, stack_examples

Arrays = dict[str, np.ndarray]
BuilderFactory = Callable[[], Any]  # makes a TFDS builder


def load_cached_arrays(file: Path, decode: Callable[[], Arrays]) -> Arrays:
    """The arrays of a ``.npz`` file by name, decoded and written if it is missing or damaged.

    Reading the file needs no TFDS, which takes most of a second to import.
    """
    try:
        # np.load would leave a damaged file open.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile):
        arrays = decode()
        _write_cache(file, arrays)
        return arrays


def load_cached_examples(file: Path, decode: Callable[[], LabeledArrays]) -> LabeledArrays:
    """The examples and targets of a ``.npz`` file, cached like ``load_cached_arrays`` does."""

    def decode_arrays() -> Arrays:
        examples = decode()
        return {"x": examples.x, "y": examples.y}

    arrays = load_cached_arrays(file, decode_arrays)
    return LabeledArrays(arrays["x"], arrays["y"])


def _write_cache(file: Path, arrays: Arrays) -> None:
    """Write the whole file, then rename it. Without a cache, the run is slower but goes on."""
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        temporary = Path(scratch) / file.name
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, file)


def read_image_rows(
    folder: Path,
    split: str,
    make_builder: BuilderFactory,
) -> LabeledArrays:
    """All images of a split as rows [n, features], and their labels [n] int32.

    Args:
        folder: Folder of the prepared dataset, where the decoded arrays are cached.
        split: Name of the split.
        make_builder: Makes the TFDS builder; called only if the images are not cached.
    """

    def decode() -> LabeledArrays:
        rows = []
        labels = []
        for example in read_all_examples(open_split(make_builder, split)):
            rows.append(example["image"].reshape(-1))
            labels.append(example["label"])
        return stack_examples(rows, labels)

    return load_cached_examples(folder / f"decoded-{split}.npz", decode)


def open_split(make_builder: BuilderFactory, split: str) -> Any:
    """A split's raw examples by position, read without TensorFlow."""
    with silence_absl():
        return make_builder().as_data_source(split)


def read_all_examples(records: Any) -> list[dict[str, Any]]:
    """All raw examples of a split. Reading them in one call is a third faster than one by one."""
    with silence_absl():
        return records.__getitems__(range(len(records)))


@contextlib.contextmanager
def silence_absl() -> Iterator[None]:
    """Hide messages of TFDS and its image decoder on standard error, where the progress bar is."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
