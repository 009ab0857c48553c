"""Finds the quantity that first stopped being finite or jumped, in steps with all gauges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from research.gauges.numbering import layer_with_input, layer_with_output
from research.gauges.table import (
    ACTIVATION_RMS,
    GRAD_NORM,
    SIGNAL_GRAD,
    UPDATE_NORM,
    WEIGHT_NORM,
)
from research.records.replayed import LEAST_HISTORY, Event

HISTORY = 50  # steps before a step that a value is compared with
LONGEST_GAP = 10  # steps between two events that belong together


@dataclass(frozen=True)
class Quantity:
    """What is looked at in every step.

    Attributes:
        name: its name in words.
        column: the gauge or the metric.
        jump: a value above so many times the largest one of the steps before is a jump.
        is_backward: whether it is computed from the last layer to the first.
        is_signal: whether it has N+1 entries, of which the first is that of the embedding.
        is_metric: whether it is one number of the whole network.
    """

    name: str
    column: str
    jump: float
    is_backward: bool = False
    is_signal: bool = False
    is_metric: bool = False


PARAMETER = Quantity("parameter", WEIGHT_NORM.name, jump=2)
QUANTITIES = (  # in the order in which a step computes them
    PARAMETER,
    Quantity("activation", ACTIVATION_RMS.name, jump=4, is_signal=True),
    Quantity("loss", "train_loss", jump=4, is_metric=True),
    Quantity(
        "signal gradient",
        SIGNAL_GRAD.name,
        jump=10,
        is_signal=True,
        is_backward=True,
    ),
    Quantity("parameter gradient", GRAD_NORM.name, jump=10, is_backward=True),
    Quantity("learning rate", "learning_rate", jump=2, is_metric=True),
    Quantity("update", UPDATE_NORM.name, jump=10),
)


@dataclass(frozen=True)
class Place:
    """One number that every step has.

    Attributes:
        quantity: of which quantity.
        name: where, in words; empty for the whole network.
        layer: the number of the layer that computes it; None outside the layers.
        index: its place in the column.
    """

    quantity: Quantity
    name: str
    layer: int | None
    index: int


def places_of(layers: int, outer_parts: Sequence[str]) -> list[Place]:
    """All numbers of a step in the order in which they are computed.

    Args:
        layers: the layers N.
        outer_parts: the parts of the network that are no layers, such as ``embed`` and ``head``.
    """
    places = []
    for index, part in enumerate(outer_parts):
        places.append(Place(PARAMETER, f"the {part}", None, layers + index))
    for quantity in QUANTITIES:
        places.extend(_places_of_quantity(quantity, layers))
    return places


def _places_of_quantity(quantity: Quantity, layers: int) -> list[Place]:
    if quantity.is_metric:
        return [Place(quantity, "", None, 0)]
    places = []
    for index in range(layers + 1 if quantity.is_signal else layers):
        places.append(_place_of_entry(quantity, index, layers))
    return places[::-1] if quantity.is_backward else places


def _place_of_entry(
    quantity: Quantity,
    index: int,
    layers: int,
) -> Place:
    """The place of an entry, with the layer that computes it.

    Args:
        quantity: of which quantity.
        index: the position of the entry.
        layers: the layers N.
    """
    if not quantity.is_signal:
        return Place(quantity, f"layer {index}", index, index)
    if quantity.is_backward:
        layer = layer_with_input(index, layers)
        output = f"the output of layer {layers - 1}"
        name = output if layer is None else f"the input of layer {layer}"
        return Place(quantity, name, layer, index)
    layer = layer_with_output(index)
    name = "the output of the embedding" if layer is None else f"the output of layer {layer}"
    return Place(quantity, name, layer, index)


def read_values(
    places: Sequence[Place],
    metrics: Mapping[str, Any],
    profile: Mapping[str, np.ndarray],
) -> np.ma.MaskedArray:
    """The numbers of one step, masked where it has none.

    Args:
        places: which numbers.
        metrics: the metrics of the step.
        profile: its gauges; ``weight_norm`` may have further entries for the outer parts.
    """
    values = np.ma.masked_all(len(places))
    for number, place in enumerate(places):
        column = place.quantity.column
        if place.quantity.is_metric:
            if column in metrics:
                values[number] = metrics[column]
        elif column in profile and place.index < len(profile[column]):
            values[number] = profile[column][place.index]
    return values


def find_events(
    places: Sequence[Place],
    steps: Sequence[int],
    values: np.ma.MaskedArray,
    first_step: int,
) -> list[Event]:
    """What led to the state of the last step, the origin first.

    An event is a number that is not finite, or that is far above its values in the steps before.
    Events with at most ``LONGEST_GAP`` steps between them belong together; those that the last
    step does not follow from are left out. Of each quantity the first event is listed.

    Args:
        places: which numbers each step has.
        steps: the steps [S] in a row.
        values: the numbers [S, places].
        first_step: events before it are not looked for; the steps before are for comparison.
    """
    by_step: dict[int, list[Event]] = {}
    for row, step in enumerate(steps):
        if step >= first_step:
            found = _events_of_step(places, step, values[: row + 1])
            if found:
                by_step[step] = found
    chain = _steps_in_a_row(sorted(by_step), steps[-1])
    events: dict[str, Event] = {}
    for step in chain:
        for event in by_step[step]:
            events.setdefault(event.quantity, event)
    return list(events.values())


def _steps_in_a_row(steps: Sequence[int], end: int) -> list[int]:
    """The last of the steps, up to ``end``, without a longer gap between two of them."""
    chain: list[int] = []
    later = end
    for step in reversed(steps):
        if later - step > LONGEST_GAP:
            break
        chain.insert(0, step)
        later = step
    return chain


def _events_of_step(
    places: Sequence[Place],
    step: int,
    values: np.ma.MaskedArray,
) -> list[Event]:
    """The first event of each quantity at the last of some steps, in order."""
    now = values[-1]
    is_missing = np.ma.getmaskarray(now)
    is_unfinite = ~is_missing & ~np.isfinite(now.data)
    usual = _usual(values[:-1])
    jumps = np.array([place.quantity.jump for place in places])
    with np.errstate(invalid="ignore", over="ignore"):
        is_jump = ~is_missing & (usual > 0) & (now.data > jumps * usual)
    first: dict[str, int] = {}
    count: dict[str, int] = {}
    for number in np.flatnonzero(is_unfinite | is_jump).tolist():
        quantity = places[number].quantity.name
        first.setdefault(quantity, number)
        if places[number].layer is not None:
            count[quantity] = count.get(quantity, 0) + 1
    events = []
    for quantity, number in sorted(first.items(), key=_number):
        place = places[number]
        own_count = 0 if place.layer is None else 1
        events.append(
            Event(
                step=int(step),
                quantity=quantity,
                place=place.name,
                layer=place.layer,
                others=count.get(quantity, 0) - own_count,
                value=None if is_unfinite[number] else float(now.data[number]),
                usual=float(usual[number]) if np.isfinite(usual[number]) else None,
            )
        )
    return events


def _number(item: tuple[str, int]) -> int:
    return item[1]


def _usual(before: np.ma.MaskedArray) -> np.ndarray:
    """The largest finite value of each number in the last steps; NaN where too few are known."""
    recent = before[-HISTORY:]
    is_known = ~np.ma.getmaskarray(recent) & np.isfinite(recent.data)
    known = np.where(is_known, recent.data, -np.inf)
    largest = np.max(known, axis=0, initial=-np.inf)
    return np.where(is_known.sum(axis=0) >= LEAST_HISTORY, largest, np.nan)
