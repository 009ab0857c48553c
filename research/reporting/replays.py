"""What ``fathom replay`` has found in a run: two tables, and a sentence for ``fathom show``."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from research.config.wording import format_steps, pluralize
from research.records.replayed import LEAST_HISTORY, Event, PrecisionTrial, Replayed
from research.reporting.json_output import json_value
from research.reporting.tables import format_number

MOST_LISTED = 8  # examples of a batch that are written out


def describe_replayed(replayed: Replayed) -> str:
    """What went wrong where, and what would have prevented it, in a few plain sentences."""
    steps = f"Replayed {_describe_steps(replayed)}"
    origin = replayed.origin
    if origin is None:
        is_short = replayed.end - replayed.start < LEAST_HISTORY
        jumps = f"; a jump is only seen where {LEAST_HISTORY} steps before it are known"
        found = jumps if is_short else " and none jumped"
        return f"{steps}: every number stayed finite{found}. {_describe_record(replayed)}"
    sentences = [f"{steps}: at step {origin.step} {describe_event(origin)}."]
    end = _consequence(replayed.events)
    if end is not None:
        sentences.append(f"Then at step {end.step} {describe_event(end)}.")
    if replayed.suspects:
        noun = "example" if len(replayed.suspects) == 1 else "examples"
        numbers = ", ".join(map(str, replayed.suspects))
        sentences.append(f"In that batch the loss of {noun} {numbers} stands out.")
    sentences.append(_describe_prevention(replayed))
    sentences.append(_describe_record(replayed))
    return " ".join(filter(None, sentences))


def _describe_steps(replayed: Replayed) -> str:
    """Which steps were computed again, and which of them were measured if not all were."""
    steps = format_steps(replayed.start, replayed.end)
    first = replayed.first_measured
    if first is None or first == replayed.start:
        return steps
    return f"{steps}, of which {format_steps(first, replayed.end)} with all gauges"


def _consequence(events: Sequence[Event]) -> Event | None:
    """What the origin led to: a loss that is not finite, else the first number that is not."""
    unfinite = [event for event in events[1:] if event.value is None]
    for event in unfinite:
        if event.quantity == "loss":
            return event
    return unfinite[0] if unfinite else None


def describe_event(event: Event) -> str:
    """A quantity that stopped being finite or jumped, as the end of a sentence.

    >>> describe_event(Event(3, "activation", "the output of layer 2", 2, 0, None, 1.5))
    'the output of layer 2 is not finite'
    """
    subject = _subject(event)
    if event.others:
        subject = f"{subject} (and of {pluralize(event.others, 'further layer')})"
    verb = "are" if subject.startswith("the weights") else "is"
    if event.value is None:
        return f"{subject} {verb} not finite"
    jump = "jump" if verb == "are" else "jumps"
    assert event.usual is not None
    times = format_number(event.value / event.usual)
    return (
        f"{subject} {jump} to {format_number(event.value)}, "
        f"{times} times the most of the steps before"
    )


def _subject(event: Event) -> str:
    match event.quantity:
        case "parameter":
            return f"the weights of {event.place}"
        case "activation":
            return event.place
        case "signal gradient":
            return f"the gradient at {event.place}"
        case "parameter gradient":
            return f"the gradient of the weights of {event.place}"
        case "update":
            return f"the update of {event.place}"
    return f"the {event.quantity}"


def _describe_prevention(replayed: Replayed) -> str:
    best = replayed.prevention
    if best is not None:
        layers = _describe_layers(best)
        return f"{best.number_format} in {layers} alone, from step {best.step} on, prevents it."
    if replayed.trials:
        names = list(dict.fromkeys(trial.number_format for trial in replayed.trials))
        return f"No wider format of the layers prevents it ({', '.join(names)} in all layers)."
    return ""


def _describe_layers(trial: PrecisionTrial) -> str:
    if trial.first_layer == trial.last_layer:
        return f"layer {trial.first_layer}"
    return f"layers {trial.first_layer}–{trial.last_layer}"


def _describe_record(replayed: Replayed) -> str:
    if replayed.first_difference is None:
        return "The replayed steps equal the record bit for bit."
    return (
        f"From step {replayed.first_difference} on the replayed steps differ from the record: "
        "another machine, another version, or a checkpoint that was changed."
    )


def events_table(replayed: Replayed) -> Table:
    """One row for each quantity that stopped being finite or jumped, the origin first."""
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("step", justify="right")
    for heading in ("quantity", "where"):
        table.add_column(heading)
    table.add_column("layer", justify="right")
    table.add_column("value", justify="right")
    table.add_column("most before", justify="right")
    for event in replayed.events:
        others = f" + {pluralize(event.others, 'layer')}" if event.others else ""
        table.add_row(
            str(event.step),
            event.quantity,
            Text(event.place + others),
            "" if event.layer is None else str(event.layer),
            "not finite" if event.value is None else format_number(event.value),
            "–" if event.usual is None else format_number(event.usual),
        )
    return table


def trials_table(replayed: Replayed) -> Table:
    """One row for each number format, layers and step that were tried."""
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("format")
    table.add_column("layers")
    table.add_column("from step", justify="right")
    table.add_column("result")
    for trial in replayed.trials:
        result = Text("prevents it", style="green") if trial.prevents else Text("does not")
        layers = _describe_layers(trial).partition(" ")[2]
        table.add_row(trial.number_format, layers, str(trial.step), result)
    return table


def describe_batch(replayed: Replayed) -> str:
    """The examples of the batch in which it began; empty where nothing did."""
    if replayed.origin is None or not replayed.examples:
        return ""
    listed = ", ".join(map(str, replayed.examples[:MOST_LISTED]))
    count = len(replayed.examples)
    more = f" and {count - MOST_LISTED} more" if count > MOST_LISTED else ""
    return f"batch of step {replayed.origin.step}: training examples {listed}{more}"


def replayed_object(replayed: Replayed) -> dict[str, Any]:
    """What ``fathom replay --json`` prints of a run."""
    entries = dataclasses.asdict(replayed)
    origin = entries["events"][0] if entries["events"] else None
    prevention = replayed.prevention
    return json_value(
        entries
        | {
            "headline": describe_replayed(replayed),
            "origin": origin,
            "prevention": dataclasses.asdict(prevention) if prevention else None,
        }
    )
