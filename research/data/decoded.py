"""Prepared TFDS datasets as flat rows, decoded once and kept beside the files they were decoded from."""

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


def data_dir() -> Path:
    """The folder of all prepared datasets, as TFDS itself finds it."""
    return Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets").expanduser()


def read_rows(folder: Path, split: str, make_builder: Callable[[], Any]) -> tuple[np.ndarray, np.ndarray]:
    """A split's images [n, features] and labels [n] int32; the builder is made only where they were not decoded yet.

    Kept rows need no TFDS, which takes most of a second to import.
    """
    file = folder / f"decoded-{split}.npz"
    try:
        with np.load(file, allow_pickle=False) as kept:
            return kept["x"], kept["y"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # not there yet, or cut short
        x, y = _decoded(make_builder, split)
        _keep(file, x, y)
        return x, y


def _keep(file: Path, x: np.ndarray, y: np.ndarray) -> None:
    """Written whole and renamed into place; a folder that cannot be written costs speed, not the run."""
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        np.savez(Path(scratch) / file.name, x=x, y=y)
        os.replace(Path(scratch) / file.name, file)


def _decoded(make_builder: Callable[[], Any], split: str) -> tuple[np.ndarray, np.ndarray]:
    with _quiet():
        source = make_builder().as_data_source(split)
        examples = source.__getitems__(range(len(source)))  # all at once: a third faster than one by one
    x = np.stack([example["image"].reshape(-1) for example in examples])
    return x, np.array([example["label"] for example in examples], np.int32)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS reports preparation on standard error, where progress of our own stands."""
    from absl import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)
