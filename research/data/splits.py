"""Splits and slices of them: ``train``, ``train[:10%]``, ``test[100:200]``."""

import re
from collections.abc import Mapping

_BOUND = r"(-?\d+%?)?"
_SLICE = re.compile(rf"(\w+)(?:\[{_BOUND}:{_BOUND}\])?")


def cut(split: str, sizes: Mapping[str, int], path: str = "data.split") -> tuple[str, slice]:
    """The split that is meant and the examples of it, first and last behind it as whole numbers.

    A percentage counts examples rounded to the nearest whole, as TFDS does by default; a negative bound counts from
    the end.

    >>> cut("train[25%:-10]", {"train": 200})
    ('train', slice(50, 190, None))

    Raises:
        ValueError: there is no such split, the slice is none, or it holds no example; ``path`` names the setting.
    """
    match = _SLICE.fullmatch(split)
    if not match or match.group(1) not in sizes:
        sliced = " or a slice such as train[:10%]" if "[" in split else ""
        raise ValueError(f"{path} must be one of {', '.join(sizes)}{sliced}, got {split}")
    name, *bounds = match.groups()
    size = sizes[name]
    start, stop, _ = slice(*(_examples(bound, size) for bound in bounds)).indices(size)
    if stop <= start:
        raise ValueError(f"{path} must hold examples: {name} has {size}, got {split}")
    return name, slice(start, stop)


def _examples(bound: str | None, size: int) -> int | None:
    if bound is None or not bound.endswith("%"):
        return None if bound is None else int(bound)
    return round(size * int(bound[:-1]) / 100)
