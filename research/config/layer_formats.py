"""The layers that compute in another number format than the rest: ``precision.layers``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from research.config.options import PrecisionKind
from research.config.suggestions import format_suggestion

PATH = "precision.layers"
LAYER_FORMATS = (
    PrecisionKind.float32,
    PrecisionKind.bfloat16,
    PrecisionKind.float16,
    PrecisionKind.float8_e4m3,
    PrecisionKind.float8_e5m2,
)
ENTRY = re.compile(r"\s*(\d{1,9})(?:-(\d{1,9}))?:(\w+)\s*")


@dataclass(frozen=True)
class LayerFormat:
    """Layers in a row, and the number format of their arithmetic.

    Attributes:
        first: the number of the first layer.
        last: the number of the last layer.
        kind: the format.
    """

    first: int
    last: int
    kind: PrecisionKind

    def __str__(self) -> str:
        layers = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{layers}:{self.kind.name}"


def parse_layer_formats(entries: Sequence[str]) -> list[LayerFormat]:
    """What the entries of ``precision.layers`` say.

    >>> [str(entry) for entry in parse_layer_formats(["17-18:float32", "3:bfloat16"])]
    ['17-18:float32', '3:bfloat16']

    Raises:
        ValueError: an entry is not of the form ``17-18:float32``, or two entries name one layer.
    """
    parsed: list[LayerFormat] = []
    for entry in entries:
        layers = _parse_entry(entry)
        for other in parsed:
            if layers.first <= other.last and other.first <= layers.last:
                raise ValueError(f"{PATH} must name each layer once, got {other} and {layers}")
        parsed.append(layers)
    return parsed


def _parse_entry(entry: str) -> LayerFormat:
    match = ENTRY.fullmatch(str(entry))
    if match is None:
        raise ValueError(
            f"{PATH} must be a list in brackets of layers and formats such as 17-18:float32, "
            f"got {entry or 'an empty entry'}"
        )
    first = int(match[1])
    last = int(match[2] or match[1])
    if last < first:
        raise ValueError(f"{PATH} must name layers in ascending order, got {entry}")
    names = [kind.name for kind in LAYER_FORMATS]
    if match[3] not in names:
        hint = format_suggestion(match[3], names)
        raise ValueError(f"{PATH} must name one of {', '.join(names)}, got {match[3]}{hint}")
    return LayerFormat(first, last, PrecisionKind[match[3]])


def index_formats(entries: Sequence[str], layers: int) -> list[int]:
    """For each layer, 0 for the format of the network, or k for the k-th of ``kinds_in``.

    >>> index_formats(["1-2:float32"], 4)
    [0, 1, 1, 0]

    Args:
        entries: the value of ``precision.layers``.
        layers: the layers N of the network.

    Raises:
        ValueError: there is no layer of such a number.
    """
    kinds = kinds_in(entries)
    indices = [0] * layers
    for entry in parse_layer_formats(entries):
        if entry.last >= layers:
            raise ValueError(f"{PATH} must name layers from 0 to {layers - 1}, got {entry}")
        for layer in range(entry.first, entry.last + 1):
            indices[layer] = 1 + kinds.index(entry.kind)
    return indices


def kinds_in(entries: Sequence[str]) -> list[PrecisionKind]:
    """The formats that entries of ``precision.layers`` name, in the order of ``LAYER_FORMATS``."""
    named = {entry.kind for entry in parse_layer_formats(entries)}
    return [kind for kind in LAYER_FORMATS if kind in named]
