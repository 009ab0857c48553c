"""What ``fathom replay`` has found in a run: ``replay.json`` in the run's directory."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.records.record import write_json

FILE = "replay.json"
LEAST_HISTORY = 5  # steps before a step that must be known for a jump to be seen there


@dataclass(frozen=True)
class Event:
    """A quantity that stopped being finite, or jumped, at a step.

    Attributes:
        step: the step.
        quantity: which quantity, in words.
        place: where, in words; empty for a quantity of the whole network.
        layer: the number of the layer; None outside the layers.
        others: in how many further layers the quantity does the same at this step.
        value: the value; None where it is not finite.
        usual: the largest value of the steps before; None where too few are known.
    """

    step: int
    quantity: str
    place: str
    layer: int | None
    others: int
    value: float | None
    usual: float | None


@dataclass(frozen=True)
class PrecisionTrial:
    """The steps trained again with some layers in another number format.

    Attributes:
        step: the step from which on.
        number_format: the format; empty for the formats of the run.
        first_layer: the first of these layers.
        last_layer: the last of them.
        prevents: whether everything stayed finite.
    """

    step: int
    number_format: str
    first_layer: int
    last_layer: int
    prevents: bool


@dataclass(frozen=True)
class Replayed:
    """The steps of a run that were computed again.

    Attributes:
        start: the first step.
        is_from_checkpoint: whether it started from a checkpoint, else from initialisation.
        end: the step where the record says that the run went wrong.
        first_difference: the first step whose numbers differ from the record; None where all are
            equal bit for bit.
        events: what went wrong, in the order in which it was computed; the first is the origin.
        examples: the indices of the training examples in the batch of the origin.
        suspects: those of them whose loss stands out.
        trials: the search over steps, layers and number formats.
        no_search: why there was no search; empty where there was one.
        first_measured: the first step at which all gauges were measured; None in files of earlier
            versions.
    """

    start: int
    is_from_checkpoint: bool
    end: int
    first_difference: int | None
    events: Sequence[Event]
    examples: Sequence[int]
    suspects: Sequence[int]
    trials: Sequence[PrecisionTrial]
    no_search: str = ""
    first_measured: int | None = None

    @property
    def origin(self) -> Event | None:
        """The first event; None where nothing stopped being finite or jumped."""
        return self.events[0] if self.events else None

    @property
    def prevention(self) -> PrecisionTrial | None:
        """Of the trials that prevent it, the one with the fewest layers, from the last step on."""
        preventing = [trial for trial in self.trials if trial.prevents]
        return min(preventing, key=_effort, default=None)


def _effort(trial: PrecisionTrial) -> tuple[int, int]:
    return trial.last_layer - trial.first_layer, -trial.step


def write_replayed(directory: Path, replayed: Replayed) -> Path:
    """Writes what was found into a run's directory and returns the file."""
    file = directory / FILE
    write_json(file, dataclasses.asdict(replayed))
    return file


def read_replayed(directory: Path) -> Replayed | None:
    """What was found in a run; None where nothing was, or where the file is damaged."""
    try:
        entries = json.loads((directory / FILE).read_text(encoding="utf-8"))
        return _from_json(entries)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _from_json(entries: dict[str, Any]) -> Replayed:
    events = [Event(**event) for event in entries["events"]]
    trials = [PrecisionTrial(**trial) for trial in entries["trials"]]
    return Replayed(**(entries | {"events": events, "trials": trials}))
