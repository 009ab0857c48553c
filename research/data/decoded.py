"""Prepared TFDS datasets as arrays, decoded once and kept beside the files they were decoded from."""

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Example = dict[str, Any]


def data_dir() -> Path:
    """The folder of all prepared datasets, as TFDS itself finds it."""
    return Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets").expanduser()


def kept(file: Path, decode: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` file, by name; decoded, and kept there, where they were not yet.

    Kept arrays need no TFDS, which takes most of a second to import.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        zipfile.BadZipFile,
    ):  # not there yet, or cut short
        decoded = decode()
        _keep(file, decoded)
        return decoded


def read_rows(
    folder: Path, split: str, make_builder: Callable[[], Any]
) -> tuple[np.ndarray, np.ndarray]:
    """A split's images [n, features] and labels [n] int32; the builder is made only where they were not decoded yet."""

    def decode() -> dict[str, np.ndarray]:
        examples = all_examples(source(make_builder, split))
        x = np.stack([example["image"].reshape(-1) for example in examples])
        return {"x": x, "y": np.array([example["label"] for example in examples], np.int32)}

    columns = kept(folder / f"decoded-{split}.npz", decode)
    return columns["x"], columns["y"]


def _keep(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Written whole and renamed into place; a folder that cannot be written costs speed, not the run."""
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        np.savez(Path(scratch) / file.name, **arrays)  # type: ignore[arg-type]
        os.replace(Path(scratch) / file.name, file)


def source(make_builder: Callable[[], Any], split: str) -> Any:
    """A split's examples by number, read without TensorFlow."""
    with quiet():
        return make_builder().as_data_source(split)


def all_examples(source_: Any) -> list[Example]:
    """All of a split's examples; at once: a third faster than one by one."""
    with quiet():
        return source_.__getitems__(range(len(source_)))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """TFDS reports preparation on standard error, and once what decodes images; progress of our own stands there."""
    from absl import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)
