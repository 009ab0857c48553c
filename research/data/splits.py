"""Splits and slices of them: ``train``, ``train[:10%]``, ``test[100:200]``."""

import re
from collections.abc import Mapping

import numpy as np

_BOUND = r"(-?\d{1,18}%?)?"
_SPLIT = re.compile(rf"(\w+)(?:\[{_BOUND}:{_BOUND}\])?")


def parse_split(
    split: str,
    sizes: Mapping[str, int],
    path: str = "data.split",
) -> tuple[str, slice]:
    """Parse a split or a slice of one, as TFDS writes them.

    A percentage is rounded to the nearest example, and a negative bound counts from the end.

    >>> parse_split("train[25%:-10]", {"train": 200})
    ('train', slice(50, 190, None))

    Args:
        split: A split such as ``train``, or a slice such as ``train[:10%]``.
        sizes: Number of examples in each split.
        path: The setting that error messages name.

    Returns:
        The name of the split, and the slice of its examples with bounds between 0 and their number.

    Raises:
        ValueError: There is no such split, the slice is malformed, it ends beyond the split, or it
            holds no example.
    """
    match = _SPLIT.fullmatch(split)
    if match is None or match.group(1) not in sizes:
        hint = " or a slice such as train[:10%]" if "[" in split else ""
        got = split or "an empty value"
        valid = f"one of {', '.join(sizes)}"
        if len(sizes) == 1:  # parts of it can take the place of the other split
            [only] = sizes
            valid = f"{only} or a slice of it"
            hint = f", such as {describe_parts(only)}"
        raise ValueError(f"{path} must be {valid}{hint}, got {got}")
    name, lower, upper = match.groups()
    size = sizes[name]
    first = _parse_bound(lower, size)
    last = _parse_bound(upper, size)
    for bound in (first, last):
        if bound is not None and abs(bound) > size:
            raise ValueError(
                f"{path} must have bounds up to {size} or 100%, the examples of {name}, got {split}"
            )
    start, stop, _ = slice(first, last).indices(size)
    if stop <= start:
        others = [other for other, count in sizes.items() if count and other != name]
        hint = f"; use {describe_parts(others[0])}" if size == 0 and others else ""
        raise ValueError(f"{path} must hold examples: {name} has {size}, got {split}{hint}")
    return name, slice(start, stop)


def describe_parts(name: str) -> str:
    """Settings that train on a part of a split and evaluate on the rest of it, in words.

    Args:
        name: The split.
    """
    return f"{name}[:90%] for data.split and {name}[90%:] for data.eval_split"


def choose_test_positions(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose a tenth of ``count`` examples for the test split, the same ones in every run.

    Returns:
        The sorted positions of the training examples and those of the test examples.
    """
    order = np.random.default_rng(0).permutation(count)
    num_test = max(1, count // 10)
    return np.sort(order[num_test:]), np.sort(order[:num_test])


def part_positions(
    part: slice,
    size: int,
    *,
    shuffle: bool,
) -> slice | np.ndarray:
    """The positions of a part of a split.

    Args:
        part: The part, with bounds between 0 and ``size``.
        size: Number of examples in the split.
        shuffle: Whether a part is cut from a random order, the same one in every run. A whole split
            stays in its own order.
    """
    is_whole = part.stop - part.start == size
    if is_whole or not shuffle:
        return part
    return _fixed_order(size)[part]


def limit_positions(
    limit: int | None,
    size: int,
    *,
    shuffle: bool,
) -> slice | np.ndarray:
    """The positions of the examples that a limit keeps, like those of ``part_positions``.

    Args:
        limit: Largest number of examples; None keeps all.
        size: Number of examples.
        shuffle: Whether they are chosen at random, the same ones in every run. A larger limit keeps
            those of a smaller one.
    """
    kept = min(size, limit or size)
    return part_positions(slice(0, kept), size, shuffle=shuffle)


def _fixed_order(size: int) -> np.ndarray:
    return np.random.default_rng(2).permutation(size)


def _parse_bound(bound: str | None, size: int) -> int | None:
    if bound is None:
        return None
    if bound.endswith("%"):
        percentage = int(bound[:-1])
        return round(size * percentage / 100)
    return int(bound)
