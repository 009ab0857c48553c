"""Arrays of the user's own: a ``.npz`` file with ``x`` and ``y``, and if there are any ``x_test`` and ``y_test``."""

import functools
import hashlib
import math
import zipfile
from pathlib import Path

import numpy as np

from research.config.data_options import Data
from research.data.dataset import Columns, Dataset, Known, chosen, standardised


def describe(data: Data) -> Known:
    """What the file holds.

    Raises:
        ValueError: there is none, or it holds something else; what was expected is said.
    """
    splits = _splits(data)
    x, y = splits["train"]
    sizes = {name: len(columns[0]) for name, columns in splits.items()}
    return Known(sizes, x.shape[1:] or (1,), real=y.dtype.kind == "f")


def load_arrays(data: Data) -> Dataset:
    """The arrays of a file. Whole-number targets are classes 0 to C-1; others are numbers to be met, [n] or [n, k]."""
    known = describe(data)
    splits = _splits(data)
    x, y = splits["train"]
    classes = y.shape[1] if known.real else 1 + max(int(own.max()) for _, own in splits.values())

    def read(split: str) -> Columns:
        x, y = splits[split]
        return x.reshape(len(x), -1), y

    columns = chosen(data, known.splits, read, classes)
    x = columns[0]
    version = hashlib.sha256(x.tobytes()).hexdigest()[:8]
    return Dataset(
        "arrays", version, data.split, *columns, known.shape, classes, *standardised(x)
    )  # fmt: skip


def _splits(data: Data) -> dict[str, Columns]:
    if not data.path:
        raise ValueError("data.path must be a .npz file with x and y for data=arrays, got none")
    file = Path(data.path).expanduser()
    if not file.is_file():
        raise ValueError(
            f"data.path must be a .npz file with x and y, got {file}, which is not there"
        )
    return _read(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _read(file: Path, changed: int) -> dict[str, Columns]:
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {
                name: content[name]
                for name in content.files
                if name in ("x", "y", "x_test", "y_test")
            }
            names = list(content.files)
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error) and zipfile.is_zipfile(file):
            raise ValueError(
                f"{file} holds pickled objects, which are never read: save arrays of numbers"
            ) from None
        raise ValueError(
            f"{file} is no .npz file, or a damaged one: numpy.savez(file, x=…, y=…) makes one"
        ) from None
    if not {"x", "y"} <= set(arrays):
        raise ValueError(f"{file} must hold x and y, got {', '.join(names) or 'nothing'}")
    train = _checked(file, arrays["x"], arrays["y"], "")
    if {"x_test", "y_test"} <= set(arrays):
        test = _checked(file, arrays["x_test"], arrays["y_test"], "_test")
        if test[0].shape[1:] != train[0].shape[1:]:
            raise ValueError(
                f"{file}: x_test must be [n, {_listed(train[0])}] as x is, got [n, {_listed(test[0])}]"
            )
        return {"train": train, "test": test}
    return parted(train)


def parted(columns: Columns) -> dict[str, Columns]:
    """Examples in a fixed random order, a tenth of them held out."""
    x, y = columns
    order = np.random.default_rng(0).permutation(len(x))
    held_out = max(1, len(x) // 10)
    train = np.sort(order[held_out:])
    test = np.sort(order[:held_out])
    return {"train": (x[train], y[train]), "test": (x[test], y[test])}


def _checked(file: Path, x: np.ndarray, y: np.ndarray, behind: str) -> Columns:
    """Examples and targets in the formats that are trained on."""
    if x.dtype.kind not in "buif" or y.dtype.kind not in "buif":
        raise ValueError(
            f"{file}: x{behind} and y{behind} must be numbers, got {x.dtype} and {y.dtype}"
        )
    if not x.ndim or not y.ndim or len(x) != len(y) or len(x) < 2:
        raise ValueError(f"{file}: x{behind} and y{behind} must hold as many examples, two at least, got "
                         f"{len(x) if x.ndim else 0} and {len(y) if y.ndim else 0}")  # fmt: skip
    for name, array in ((f"x{behind}", x), (f"y{behind}", y)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{file}: {name} must be finite")
    x = x if x.dtype == np.uint8 else x.astype(np.float32)
    if y.dtype.kind == "f":
        return x, y.astype(np.float32).reshape(len(y), -1)
    if y.ndim > 1 or y.min() < 0:
        raise ValueError(
            f"{file}: y{behind} must be [n], classes from 0 on, got {list(y.shape)} from {y.min()} on"
        )
    return x, y.astype(np.int32)


def _listed(x: np.ndarray) -> str:
    return ", ".join(map(str, x.shape[1:])) or str(math.prod(x.shape[1:]))
