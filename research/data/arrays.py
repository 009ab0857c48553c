"""Arrays from a ``.npz`` file: ``x`` and ``y``, and optionally ``x_test`` and ``y_test``."""

import functools
import hashlib
import zipfile
from pathlib import Path

import numpy as np

from research.config.data_options import ArrayData
from research.data.dataset import (
    Dataset,
    DatasetInfo,
    LabeledArrays,
    make_standardized_dataset,
    select_splits,
)
from research.data.splits import choose_test_positions

ARRAY_NAMES = ("x", "y", "x_test", "y_test")
NUMBER_KINDS = "buif"  # numpy's letters for booleans, unsigned and signed integers, and floats


def describe(data: ArrayData) -> DatasetInfo:
    """What the file holds.

    Raises:
        ValueError: There is no such file, or its content is not as expected.
    """
    splits = _load_splits(data)
    train = splits["train"]
    return DatasetInfo(
        splits={name: len(examples) for name, examples in splits.items()},
        shape=train.x.shape[1:] or (1,),
        is_regression=_is_float(train.y),
    )


def load_arrays(data: ArrayData) -> Dataset:
    """The arrays of a file.

    Whole numbers are the classes 0 to C-1. Other targets, [n] or [n, k], are for regression.
    """
    info = describe(data)
    splits = _load_splits(data)
    classes = _count_classes(splits)

    def read(split: str) -> LabeledArrays:
        examples = splits[split]
        rows = examples.x.reshape(len(examples), -1)
        return LabeledArrays(rows, examples.y)

    selected = select_splits(data, info.splits, read, classes)
    digest = hashlib.sha256(selected.train.x.tobytes())
    return make_standardized_dataset(
        selected,
        name="arrays",
        version=digest.hexdigest()[:8],
        split=data.split,
        shape=info.shape,
        classes=classes,
    )


def _count_classes(splits: dict[str, LabeledArrays]) -> int:
    """The number of classes over all splits; for regression, the number of outputs."""
    targets = splits["train"].y
    if _is_float(targets):
        return targets.shape[1]
    largest = [int(examples.y.max()) for examples in splits.values()]
    return max(largest) + 1


def _load_splits(data: ArrayData) -> dict[str, LabeledArrays]:
    if not data.path:
        raise ValueError("data.path must be a .npz file with x and y for data=arrays, got none")
    file = Path(data.path).expanduser()
    if not file.is_file():
        raise ValueError(
            f"data.path must be a .npz file with x and y, got {file}, which does not exist"
        )
    return _read_splits(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _read_splits(file: Path, modified_ns: int) -> dict[str, LabeledArrays]:
    """The splits of a file. ``modified_ns`` is part of the cache key, so a new version is read."""
    arrays = _read_arrays(file)
    train = _check_examples(file, arrays["x"], arrays["y"])
    if "x_test" not in arrays or "y_test" not in arrays:
        train_positions, test_positions = choose_test_positions(len(train))
        return {
            "train": train.subset(train_positions),
            "test": train.subset(test_positions),
        }
    test = _check_examples(file, arrays["x_test"], arrays["y_test"], suffix="_test")
    if test.x.shape[1:] != train.x.shape[1:]:
        expected = _format_shape(train.x)
        got = _format_shape(test.x)
        raise ValueError(f"{file}: x_test must be {expected} like x, got {got}")
    return {"train": train, "test": test}


def _read_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that belong to a dataset, by name; at least ``x`` and ``y``."""
    arrays = {}
    try:
        # np.load would leave a damaged file open.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            names = list(content.files)
            for name in names:
                if name in ARRAY_NAMES:
                    arrays[name] = content[name]
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error) and zipfile.is_zipfile(file):
            raise ValueError(
                f"{file} holds pickled objects, which are never read: save arrays of numbers"
            ) from None
        raise ValueError(
            f"{file} is not a .npz file, or it is damaged: numpy.savez(file, x=…, y=…) makes one"
        ) from None
    if "x" not in arrays or "y" not in arrays:
        raise ValueError(f"{file} must hold x and y, got {', '.join(names) or 'nothing'}")
    return arrays


def _check_examples(
    file: Path,
    x: np.ndarray,
    y: np.ndarray,
    *,
    suffix: str = "",
) -> LabeledArrays:
    """Examples as uint8 or float32, and targets [n] int32 or [n, k] float32.

    Args:
        file: The file that error messages name.
        x: Examples [n, ...].
        y: Targets [n] or [n, k].
        suffix: Follows ``x`` and ``y`` in the names of the arrays.

    Raises:
        ValueError: The arrays are not examples with targets.
    """
    x_name = f"x{suffix}"
    y_name = f"y{suffix}"
    if x.dtype.kind not in NUMBER_KINDS or y.dtype.kind not in NUMBER_KINDS:
        raise ValueError(
            f"{file}: {x_name} and {y_name} must be numbers, got {x.dtype} and {y.dtype}"
        )
    num_x = len(x) if x.ndim else 0
    num_y = len(y) if y.ndim else 0
    if num_x != num_y or num_x < 2:
        raise ValueError(
            f"{file}: {x_name} and {y_name} must hold the same number of examples, at least two, "
            f"got {num_x} and {num_y}"
        )
    _check_finite(file, x_name, x)
    _check_finite(file, y_name, y)
    if x.dtype != np.uint8:
        x = x.astype(np.float32)
    if _is_float(y):
        targets = y.astype(np.float32)
        return LabeledArrays(x, targets.reshape(len(y), -1))
    if y.ndim > 1 or y.min() < 0:
        raise ValueError(
            f"{file}: {y_name} must be [n] with classes from 0 on, "
            f"got {list(y.shape)} with classes from {y.min()} on"
        )
    return LabeledArrays(x, y.astype(np.int32))


def _check_finite(
    file: Path,
    name: str,
    array: np.ndarray,
) -> None:
    if _is_float(array) and not np.isfinite(array).all():
        raise ValueError(f"{file}: {name} must be finite")


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f"


def _format_shape(x: np.ndarray) -> str:
    """The shape of examples in words: ``[n, 3, 2]``."""
    sizes = ", ".join(map(str, x.shape[1:]))
    return f"[n, {sizes}]" if sizes else "[n]"
