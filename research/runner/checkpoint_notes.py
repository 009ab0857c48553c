"""What a checkpoint holds besides the state: to which run and to which rows it belongs. No jax."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.records.record import TABLES, read_info
from research.records.run_info import is_of_other_version
from research.records.runs import METRICS

SECONDS = ("compile", "train")
OPTIONAL = ("jax_settings",)  # entries that checkpoints of earlier versions do not have


class InvalidNotes(ValueError):
    """The notes of a checkpoint do not have the expected form, or do not fit its step."""


@dataclass(frozen=True)
class CheckpointNotes:
    """What a run needs besides its state in order to resume.

    Attributes:
        id: the id of the run.
        data: the fingerprint of its data.
        resumed: the steps that it has resumed at so far.
        seconds: what it has spent so far, for each of ``SECONDS``.
        rows: the number of rows of each table up to the step of the checkpoint.
        part_checksums: the CRC-32 of the part files that hold these rows, for each table.
        jax_settings: the settings of JAX that its numbers depend on; empty in a checkpoint of
            version 0.2.
    """

    id: str
    data: str
    resumed: list[int]
    seconds: dict[str, float]
    rows: dict[str, int]
    part_checksums: dict[str, int]
    jax_settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The notes as a checkpoint stores them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, notes: Mapping[str, Any], step: int) -> "CheckpointNotes":
        """Checks the notes of a checkpoint.

        Args:
            notes: the notes as they were read.
            step: how many steps the checkpoint has trained.

        Raises:
            InvalidNotes: an entry is missing or of another type, or does not fit the step.
        """
        values = {}
        for field in dataclasses.fields(cls):
            if field.name in notes:
                values[field.name] = notes[field.name]
            elif field.name not in OPTIONAL:
                raise InvalidNotes(f"its notes have no {field.name}")
        checked = cls(**values)
        for name, is_valid in checked._validity().items():
            if not is_valid:
                raise InvalidNotes(f"the {name} in its notes cannot be used")
        if checked.rows[METRICS] != step:
            raise InvalidNotes(
                f"it is of step {step}, but the record has {checked.rows[METRICS]} steps"
            )
        return checked

    def _validity(self) -> dict[str, bool]:
        """Whether each entry has the expected form."""
        return {
            "id": isinstance(self.id, str),
            "data": isinstance(self.data, str),
            "resumed": isinstance(self.resumed, list) and all(map(_is_count, self.resumed)),
            "seconds": _has_numbers(self.seconds, SECONDS, int | float),
            "rows": _has_numbers(self.rows, TABLES, int),
            "part_checksums": _has_numbers(self.part_checksums, TABLES, int),
            "jax_settings": isinstance(self.jax_settings, dict),
        }


def explain_unusable(error: Exception, directory: Path) -> str:
    """Why a checkpoint cannot be used.

    Args:
        error: what reading it raised.
        directory: the run directory.
    """
    if isinstance(error.__cause__, KeyError) and is_of_other_version(read_info(directory) or {}):
        return "an earlier version of Fathom wrote it in another format"
    return str(error)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _has_numbers(
    values: Any,
    names: tuple[str, ...],
    kind: Any,
) -> bool:
    """Whether ``values`` has a number of a kind, not below zero, for each name and no other."""
    if not isinstance(values, dict) or set(values) != set(names):
        return False
    for value in values.values():
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        if not is_number or not value >= 0:
            return False
    return True
