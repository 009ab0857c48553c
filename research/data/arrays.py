"""Arrays from a ``.npz`` file: ``x`` and ``y``, and optionally ``x_test`` and ``y_test``."""

import functools
import hashlib
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes  # noqa: F401 (makes bfloat16 a name of a type for NumPy)
import numpy as np

from research.config.data_options import ArrayData, Scaling
from research.config.notices import join_first, notify_once
from research.config.paths import expand_home
from research.data.dataset import (
    Dataset,
    DatasetInfo,
    LabeledArrays,
    Shape,
    make_standardized_dataset,
    select_splits,
)
from research.data.splits import choose_test_positions
from research.data.standardize import (
    NOT_STANDARDIZED,
    Standardization,
    find_lost_features,
    fit_standardization,
    fit_standardization_per_feature,
)

ARRAY_NAMES = ("x", "y", "x_test", "y_test")
NUMBER_KINDS = "buif"  # numpy's letters for booleans, unsigned and signed integers, and floats
NUMBERING_HINT = "numpy.unique(y, return_inverse=True)[1] numbers the classes from 0 on"
TARGETS_HINT = "targets of a regression are y.astype(float)"
# What numpy.load raises of a file that is no .npz file; of a single array that it is no archive.
NOT_AN_ARCHIVE = (
    OSError,
    EOFError,
    ValueError,
    AttributeError,
    TypeError,
    RuntimeError,
    NotImplementedError,
    KeyError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
# Words in the names of arrays that are not called x and y.
TEST_WORDS = r"test|val|eval|dev"
TARGET_WORDS = r"^y|label|target|class|output|arr_1"
INPUT_WORDS = r"^x|data|image|input|feature|arr_0"
ROW_DIMENSIONS = 2  # of arrays whose examples are rows of numbers
CHANNELS = (1, 3, 4)  # of images, as far as their number tells them from heights and widths
WIDE_FORMATS = ("float32", "float64")
MAX_CLASSES = 100_000
MAX_INTEGER = 2**53  # up to which float64 holds every whole number
MAX_FLOAT = 1e307  # a sum of a few such numbers is finite in float64
MIN_DEVIATION = 1e-300  # whose inverse is finite in float64
MAX_MAGNITUDE = 1e18  # of targets and standardized inputs: the square is finite in float32


@dataclass(frozen=True)
class ArrayFile:
    """What a file holds.

    Attributes:
        splits: The examples of each split.
        remarks: Lines about what a user may not expect.
    """

    splits: dict[str, LabeledArrays]
    remarks: tuple[str, ...]


def describe(data: ArrayData) -> DatasetInfo:
    """What the file holds.

    Raises:
        ValueError: There is no such file, or its content is not as expected.
    """
    file = _find_file(data)
    modified_ns = file.stat().st_mtime_ns
    splits = _read_file(file, modified_ns).splits
    _check_standardized(file, modified_ns, data.scaling)
    train = splits["train"]
    return DatasetInfo(
        splits={name: len(examples) for name, examples in splits.items()},
        shape=train.x.shape[1:] or (1,),
        is_regression=_is_float(train.y),
        whole_rows=train.x.dtype.kind in "iu" and train.x.ndim == ROW_DIMENSIONS,
    )


def load_arrays(data: ArrayData) -> Dataset:
    """The arrays of a file.

    Whole numbers are the classes 0 to C-1. Other targets, [n] or [n, k], are for regression.
    """
    info = describe(data)
    file = _find_file(data)
    content = _read_file(file, file.stat().st_mtime_ns)
    splits = content.splits
    classes = _count_classes(splits)

    def read(split: str) -> LabeledArrays:
        return _flatten(splits[split])

    selected = select_splits(data, info.splits, read, classes, shuffle=True)
    for line in content.remarks:
        notify_once(line)
    digest = hashlib.sha256(selected.train.x.tobytes())
    return make_standardized_dataset(
        selected,
        name="arrays",
        version=digest.hexdigest()[:8],
        split=data.split,
        shape=info.shape,
        classes=classes,
    )


def _flatten(examples: LabeledArrays) -> LabeledArrays:
    """The examples as rows [n, features]."""
    rows = examples.x.reshape(len(examples), -1)
    return LabeledArrays(rows, examples.y)


def _count_classes(splits: dict[str, LabeledArrays]) -> int:
    """The number of classes over all splits; for regression, the number of outputs."""
    targets = splits["train"].y
    if _is_float(targets):
        return targets.shape[1]
    largest = [int(examples.y.max()) for examples in splits.values()]
    return max(largest) + 1


def _find_file(data: ArrayData) -> Path:
    if not data.path:
        raise ValueError("data.path must be a .npz file with x and y for data=arrays, got none")
    file = expand_home(data.path)
    if not file.is_file():
        raise ValueError(
            f"data.path must be a .npz file with x and y, got {file}, which is not a file"
        )
    return file


@functools.lru_cache(maxsize=2)
def _read_file(file: Path, modified_ns: int) -> ArrayFile:
    """What a file holds. ``modified_ns`` is part of the cache key, so a new version is read."""
    arrays, other_names = _read_arrays(file)
    _check_examples(file, arrays["x"], arrays["y"])
    has_test = "x_test" in arrays
    x_parts = [arrays["x"]]
    y_parts = [arrays["y"]]
    if has_test:
        _check_examples(file, arrays["x_test"], arrays["y_test"], suffix="_test")
        _check_same_kind(file, arrays)
        x_parts.append(arrays["x_test"])
        y_parts.append(arrays["y_test"])
    if not _is_float(arrays["y"]):
        _check_classes(file, y_parts)
    x_parts = _convert_inputs(x_parts)
    parts = []
    for x, y in zip(x_parts, y_parts, strict=True):
        parts.append(LabeledArrays(x, _convert_targets(y)))
    if has_test:
        train, test = parts
    else:
        [whole] = parts
        train_positions, test_positions = choose_test_positions(len(whole))
        train = whole.subset(train_positions)
        test = whole.subset(test_positions)
    remarks = [
        *_describe_unused(file, other_names),
        *_describe_channels(file, train.x.shape[1:]),
    ]
    return ArrayFile({"train": train, "test": test}, tuple(remarks))


def _describe_unused(file: Path, names: list[str]) -> list[str]:
    """A line with the names of arrays that are left out, if there are any."""
    if not names:
        return []
    return [
        f"{file}: arrays left out: {join_first(names)} "
        f"(those that are read are called {', '.join(ARRAY_NAMES)})"
    ]


def _describe_channels(file: Path, shape: Shape) -> list[str]:
    """A line if images of this shape seem to have their channels first."""
    if len(shape) != 3 or shape[0] not in CHANNELS or shape[-1] in CHANNELS:
        return []
    channels, height, width = shape
    return [
        f"{file}: x is read as images of {channels}×{height} pixels with {width} channels; if "
        f"they are {height}×{width} pixels, numpy.moveaxis(x, 1, -1) puts the channels last"
    ]


def _read_arrays(file: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of a file that belong to a dataset, by name, and the names of the others.

    The former are at least ``x`` and ``y``.
    """
    arrays = {}
    name = ""
    try:
        # np.load would leave a damaged file open.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            names = list(content.files)
            for name in names:
                if name in ARRAY_NAMES:
                    arrays[name] = content[name]
    except (MemoryError, OverflowError) as error:
        reason = str(error) or "too large"
        raise ValueError(f"{file} holds an array that does not fit into memory: {reason}") from None
    except NOT_AN_ARCHIVE as error:
        reason = getattr(error, "strerror", None)  # of the operating system, such as missing rights
        if reason:
            raise ValueError(f"{file} cannot be read: {reason}") from None
        if "allow_pickle" in str(error) and zipfile.is_zipfile(file):
            raise ValueError(
                f"{file}: {name} holds pickled objects, which are never read: "
                "save arrays of numbers"
            ) from None
        raise ValueError(
            f"{file} is not a .npz file, or it is damaged: numpy.savez(file, x=…, y=…) makes one"
        ) from None
    if len(set(names)) < len(names):
        raise ValueError(f"{file} must hold each array once, got {', '.join(names)}")
    if "x" not in arrays or "y" not in arrays:
        raise ValueError(
            f"{file} must hold x and y, got {join_first(names) or 'nothing'}: "
            f"{_suggest_names(names)}"
        )
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise ValueError(f"{file} must hold both x_test and y_test, or neither")
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy.load returns the bytes of other members
            raise ValueError(f"{file}: {name} must be an array, as numpy.savez writes it")
    return arrays, [name for name in names if name not in arrays]


def _suggest_names(names: list[str]) -> str:
    """How to save arrays of other names, of which those of inputs and targets are guessed."""
    of_training = []
    of_tests = []
    for name in filter(str.isidentifier, names):
        is_test = re.search(TEST_WORDS, name.lower())
        kind = of_tests if is_test else of_training
        kind.append(name)
    of_tests.sort(key=lambda name: "test" not in name.lower())  # not a validation split next to it
    inputs, targets = _guess_inputs_and_targets(of_training)
    arguments = f"x={inputs or '…'}, y={targets or '…'}"
    inputs, targets = _guess_inputs_and_targets(of_tests)
    if inputs and targets:
        arguments += f", x_test={inputs}, y_test={targets}"
    return f"numpy.savez(file, {arguments}) makes such a file"


def _guess_inputs_and_targets(names: list[str]) -> tuple[str, str]:
    """The first name that is one of inputs, and the first of targets; empty if there is none."""
    inputs = ""
    targets = ""
    for name in names:
        word = name.lower()
        if not targets and re.search(TARGET_WORDS, word):
            targets = name
        elif not inputs and re.search(INPUT_WORDS, word):
            inputs = name
    return inputs, targets


def _check_examples(
    file: Path,
    x: np.ndarray,
    y: np.ndarray,
    *,
    suffix: str = "",
) -> None:
    """Check that arrays are examples with targets.

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
    for name, array in ((x_name, x), (y_name, y)):
        if array.dtype.kind not in NUMBER_KINDS:
            raise ValueError(
                f"{file}: {name} must hold real numbers, got {array.dtype}: "
                f"{_suggest_numbers(name, array.dtype)}"
            )
    num_x = len(x) if x.ndim else 0
    num_y = len(y) if y.ndim else 0
    if num_x != num_y or num_x < 2:
        raise ValueError(
            f"{file}: {x_name} and {y_name} must hold the same number of examples, at least two, "
            f"got {num_x} and {num_y}"
        )
    if x.size == 0 or y.size == 0:
        raise ValueError(
            f"{file}: {x_name} and {y_name} must hold numbers for each example, "
            f"got the shapes {list(x.shape)} and {list(y.shape)}"
        )
    _check_magnitude(file, x_name, x, MAX_FLOAT)
    _check_magnitude(file, y_name, y, MAX_MAGNITUDE)
    if not suffix and (x == x[:1]).all():
        raise ValueError(f"{file}: {x_name} must vary, but all examples are the same")
    if not suffix and _is_float(y) and (y == y[:1]).all():
        raise ValueError(f"{file}: {y_name} must vary, but all targets are the same")


def _suggest_numbers(name: str, dtype: np.dtype) -> str:
    """How to make real numbers of an array."""
    match dtype.kind:
        case "U" | "S" if name.startswith("y"):
            return NUMBERING_HINT
        case "U" | "S":
            return f"{name}.astype(float) reads numbers that are written as text"
        case "c":
            return f"numpy.stack([{name}.real, {name}.imag], -1) makes two of each"
        case "M" | "m":
            return f"{name}.astype('int64') counts from a date on, or the units of a duration"
        case "V" if dtype.names:
            return f"numpy.lib.recfunctions.structured_to_unstructured({name}) makes columns"
        case _:
            # NumPy saves types that are not its own, such as bfloat16, as bytes of no type.
            return f"save {name}.astype('float32'), whatever its type was before it was saved"


def _check_magnitude(
    file: Path,
    name: str,
    array: np.ndarray,
    limit: float,
) -> None:
    """Raises ValueError for real numbers that are not finite, or beyond a limit."""
    if not _is_float(array):
        return
    is_finite = np.isfinite(array)
    if not is_finite.all():
        places = np.argwhere(~is_finite)
        first = tuple(places[0].tolist())
        place = ", ".join(map(str, first))
        raise ValueError(
            f"{file}: {name} must be finite, but {name}[{place}] is {array[first]}, and "
            f"{len(places)} of its {array.size} numbers are not finite"
        )
    largest = max(float(array.max()), -float(array.min()))
    if largest > limit:
        raise ValueError(
            f"{file}: {name} must hold numbers between -{limit:g} and {limit:g}, got {largest:g}: "
            "divide it by a constant"
        )


def _check_same_kind(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raises ValueError unless the test arrays are like the training arrays."""
    x = arrays["x"]
    x_test = arrays["x_test"]
    if x_test.shape[1:] != x.shape[1:]:
        expected = _format_shape(x)
        got = _format_shape(x_test)
        raise ValueError(f"{file}: x_test must be {expected} like x, got {got}")
    y = arrays["y"]
    y_test = arrays["y_test"]
    if _is_float(y) != _is_float(y_test):
        raise ValueError(f"{file}: y_test must be {y.dtype} like y, got {y_test.dtype}")
    outputs = y.size // len(y)
    test_outputs = y_test.size // len(y_test)
    if outputs != test_outputs:
        raise ValueError(
            f"{file}: y_test must hold {outputs} numbers for each example like y, "
            f"got {test_outputs}"
        )


def _check_classes(file: Path, parts: list[np.ndarray]) -> None:
    """Raises ValueError unless whole numbers are at least two classes, counted from 0 on."""
    for name, y in zip(("y", "y_test"), parts, strict=False):
        smallest = int(y.min())
        largest = int(y.max())
        if y.ndim > 1:
            single = y.size == len(y)
            hint = "y.reshape(-1) is" if single else "of one-hot rows, y.argmax(axis=1) is"
            raise ValueError(
                f"{file}: {name} must be [n] with classes from 0 on, got {list(y.shape)}: {hint} "
                f"[n]; {TARGETS_HINT}"
            )
        if smallest < 0:
            raise ValueError(
                f"{file}: {name} must be [n] with classes from 0 on, "
                f"got classes from {smallest} on: {NUMBERING_HINT}; {TARGETS_HINT}"
            )
        if largest >= MAX_CLASSES:
            raise ValueError(
                f"{file}: {name} must hold classes from 0 to {MAX_CLASSES - 1}, got {largest}: "
                f"{NUMBERING_HINT}; {TARGETS_HINT}"
            )
    [train, *_] = parts
    if train.min() == train.max():
        raise ValueError(f"{file}: y must hold at least two classes, got only {train[0]}")


def _convert_inputs(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Inputs as numbers that float64 holds.

    Whole numbers that it does not hold become their distance from the smallest one. That changes
    nothing for the network, because its inputs are standardized.
    """
    if any(_is_float(part) for part in parts):
        return [_to_float64_at_most(part) for part in parts]
    smallest = min(int(part.min()) for part in parts)
    largest = max(int(part.max()) for part in parts)
    if max(largest, -smallest) <= MAX_INTEGER:
        return parts
    distances = []
    for part in parts:
        # Whole numbers of 64 bits wrap around, so the difference is right even if it overflows.
        distance = part.astype(np.uint64) - np.uint64(smallest % 2**64)
        distances.append(distance.astype(np.float64))
    return distances


def _convert_targets(y: np.ndarray) -> np.ndarray:
    """Classes [n] int32, or real numbers [n, k]."""
    if not _is_float(y):
        return y.astype(np.int32)
    return _to_float64_at_most(y).reshape(len(y), -1)


def _to_float64_at_most(array: np.ndarray) -> np.ndarray:
    """The array, in float64 if its numbers have more than 64 bits."""
    has_more_bits = array.dtype.itemsize > 8
    return array.astype(np.float64) if has_more_bits else array


def check_formats(
    data: ArrayData,
    *,
    inputs: str,
    targets: str,
) -> None:
    """Check that what varies in a file still does in the number formats of a run.

    Args:
        data: The settings.
        inputs: Name of the format in which the network reads standardized inputs.
        targets: Name of the format of targets.

    Raises:
        ValueError: A feature, or the targets of a regression, would be constant.
    """
    file = _find_file(data)
    modified_ns = file.stat().st_mtime_ns

    def find_lost_input(number_format: str) -> int | None:
        return _find_lost_input(file, modified_ns, data.scaling, number_format)

    def loses_targets(number_format: str) -> bool:
        return _loses_targets(file, modified_ns, number_format)

    feature = find_lost_input(inputs)
    if feature is not None:
        remedy = "take its logarithm"
        if _find_lost_input(file, modified_ns, Scaling.per_feature, inputs) is None:
            remedy = "set data.scaling=per_feature"
        wider = _suggest_format(inputs, lambda name: find_lost_input(name) is None)
        raise ValueError(
            f"{file}: in {inputs}, feature {feature} of x is constant once it is standardized, "
            f"because other numbers are so much larger: {remedy}{wider}"
        )
    if loses_targets(targets):
        wider = _suggest_format(targets, lambda name: not loses_targets(name))
        raise ValueError(
            f"{file}: in {targets}, y is constant: subtract its mean and divide it by its standard "
            f"deviation{wider}"
        )


def _suggest_format(name: str, is_enough: Callable[[str], bool]) -> str:
    """The first format that is wider than one of this name and enough, as a remedy; else empty."""
    first = WIDE_FORMATS.index(name) + 1 if name in WIDE_FORMATS else 0
    for wider in WIDE_FORMATS[first:]:
        if is_enough(wider):
            return f", or use precision={wider}"
    return ""


@functools.lru_cache(maxsize=16)
def _find_lost_input(
    file: Path,
    modified_ns: int,
    scaling: Scaling,
    number_format: str,
) -> int | None:
    """The first feature that varies, but no longer once it is standardized; None if there is none.

    Args:
        file: The file.
        modified_ns: When it was last written: part of the cache key.
        scaling: How the inputs are standardized.
        number_format: Name of the format in which the network reads them.
    """
    rows = _flatten(_read_file(file, modified_ns).splits["train"]).x
    standardization = _fit_file(file, modified_ns, scaling)
    lost = find_lost_features(rows, standardization, np.dtype(number_format))
    return int(lost[0]) if len(lost) else None


def _loses_targets(file: Path, modified_ns: int, number_format: str) -> bool:
    """Whether the targets of a regression vary, but no longer in a number format."""
    targets = _read_file(file, modified_ns).splits["train"].y
    if not _is_float(targets):
        return False
    return len(find_lost_features(targets, NOT_STANDARDIZED, np.dtype(number_format))) > 0


@functools.lru_cache(maxsize=4)
def _fit_file(
    file: Path,
    modified_ns: int,
    scaling: Scaling,
) -> Standardization:
    """How the inputs of a file are standardized, with arguments as ``_find_lost_input`` has."""
    rows = _flatten(_read_file(file, modified_ns).splits["train"]).x
    if scaling is Scaling.jointly:
        return fit_standardization(rows)
    return fit_standardization_per_feature(rows)


@functools.lru_cache(maxsize=4)
def _check_standardized(
    file: Path,
    modified_ns: int,
    scaling: Scaling,
) -> None:
    """Check that the network can read the inputs once they are standardized.

    Args:
        file: The file.
        modified_ns: When it was last written: part of the cache key.
        scaling: How the inputs are standardized.

    Raises:
        ValueError: The inputs vary too little, or those of a split are far outside of the range of
            those of the training split.
    """
    splits = {}
    for name, examples in _read_file(file, modified_ns).splits.items():
        splits[name] = _flatten(examples)
    standardization = _fit_file(file, modified_ns, scaling)
    if np.max(standardization.scale) > 1 / MIN_DEVIATION:
        raise ValueError(
            f"{file}: x must vary by more than {MIN_DEVIATION:g}: multiply it by a constant"
        )
    for name, examples in splits.items():
        extremes = np.stack([examples.x.min(axis=0), examples.x.max(axis=0)])
        largest = np.abs(standardization.apply(extremes)).max()
        if largest > MAX_MAGNITUDE:
            raise ValueError(
                f"{file}: the {name} split must be in the range of the training split, "
                f"but an element of x is {largest:.2g} standard deviations away from its mean"
            )


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f"


def _format_shape(x: np.ndarray) -> str:
    """The shape of examples in words: ``[n, 3, 2]``."""
    sizes = ", ".join(map(str, x.shape[1:]))
    return f"[n, {sizes}]" if sizes else "[n]"
