"""Numbers, layers and steps in the words of a verdict."""

import math
from collections.abc import Sequence

import numpy as np

from research.diagnosis.findings import LayerRange
from research.gauges.numbering import layer_with_output

MOST_RANGES = 4  # of layers that are listed
MOST_DECIMALS = 6  # of a factor close to 1
WRITTEN_OUT = 4  # powers of ten up to which a ratio is written with its digits


def format_factor(value: float) -> str:
    """Three digits; for a factor close to 1, two digits of its distance from 1.

    >>> format_factor(0.998651)
    '0.9987'
    """
    distance = abs(value - 1)
    if value <= 0 or distance >= 0.01:
        return f"{value:.3g}"
    decimals = 1 - math.floor(math.log10(distance + 1e-9))
    rounded = round(value, min(MOST_DECIMALS, decimals))
    return f"{rounded:.{MOST_DECIMALS + 1}g}"


def format_ratio(log10: float) -> str:
    """10 to the power ``log10``: three digits, or the power of ten alone where it is far from 1."""
    if not math.isfinite(log10):
        return "nothing" if log10 < 0 else "infinitely much"
    if abs(log10) < WRITTEN_OUT:
        return f"{10**log10:.3g}"
    return f"1e{log10:+.0f}"


def to_ranges(layers: np.ndarray) -> list[LayerRange]:
    """Ascending numbers [K] as ranges of neighbours.

    >>> to_ranges(np.array([0, 1, 2, 5]))
    [(0, 2), (5, 5)]
    """
    if not len(layers):
        return []
    is_gap = np.diff(layers) > 1
    pieces = np.split(layers, np.flatnonzero(is_gap) + 1)
    return [(int(piece[0]), int(piece[-1])) for piece in pieces]


def name_layer(layer: int, names: Sequence[str] = ()) -> str:
    """``layer 3``, or its name where layers have names."""
    return names[layer] if names else f"layer {layer}"


def name_input(layer: str) -> str:
    """The name of the signal that is the input of a layer."""
    return f"the input of {layer}"


def name_signal(signal: int, names: Sequence[str] = ()) -> str:
    """A signal by the layer whose output it is, or ``the input of layer 0``.

    Args:
        signal: its number, from 0 to N.
        names: the names of the layers [N]; empty where they are numbers.
    """
    layer = layer_with_output(signal)
    return name_input(name_layer(0, names)) if layer is None else name_layer(layer, names)


def name_layers(ranges: Sequence[LayerRange], names: Sequence[str] = ()) -> str:
    """``layer 3``, ``layers 0–3, 7``; with names ``a to d, g``."""
    parts = []
    for first, last in ranges[:MOST_RANGES]:
        if names:
            parts.append(names[first] if first == last else f"{names[first]} to {names[last]}")
        else:
            parts.append(str(first) if first == last else f"{first}–{last}")
    text = ", ".join(parts)
    num_unlisted = len(ranges) - MOST_RANGES
    if num_unlisted > 0:
        text += f" and {num_unlisted} more ranges"
    if names:
        return text
    is_one = len(ranges) == 1 and ranges[0][0] == ranges[0][1]
    return f"layer {text}" if is_one else f"layers {text}"


def name_steps(
    first: int,
    last: int | None,
    start: int,
) -> str:
    """When something holds.

    Args:
        first: the first step.
        last: the last step; None where it holds until the end.
        start: the first measured step.
    """
    if last is not None:
        return f"at step {first}" if first == last else f"from step {first} to {last}"
    return "from the first step on" if first == start else f"from step {first} on"


def capitalize(text: str) -> str:
    """The text with a capital at its start; the rest stays as it is."""
    return text[:1].upper() + text[1:]


def percent(share: float) -> str:
    """A share as a percentage that is never rounded to 0 or 100 % where it is neither.

    >>> percent(0.999)
    '99.9 %'
    """
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    digits = 0
    while digits < 3 and round(value, digits) in (0, 100):
        digits += 1
    return f"{value:.{digits}f} %"
