"""Reads ``run.json`` and checks that it holds what readers expect. No jax."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research import __version__

JsonObject = dict[str, Any]

SOURCE_WATCH = "watch"  # ``source`` in run.json of a loop that is not Fathom's
RENAMED_ENTRIES = {"together": "group_size"}  # by their names in records of version 0.2
TEXT = (str,)
WHOLE = (int,)
NUMBER = (int, float)
OBJECT = (dict,)
LIST = (list,)

# What an entry is, where it is there and not null. Readers use no other entry without a check.
KINDS = {
    "id": TEXT,
    "earlier_id": TEXT,
    "status": TEXT,
    "started": TEXT,
    "source": TEXT,
    "error": TEXT,
    "wandb": TEXT,
    "notes": TEXT,
    "seed": WHOLE,
    "steps": WHOLE,
    "layers": WHOLE,
    "parameters": WHOLE,
    "group_size": WHOLE,
    "resumed": LIST,
    "tags": LIST,
    "layer_names": LIST,
    "seconds": OBJECT,
    "final": OBJECT,
    "verdict": OBJECT,
    "data": OBJECT,
    "jax_settings": OBJECT,
    "mirrored": OBJECT,
    "stopped": OBJECT,
}
FIT_KINDS = {
    "kind": TEXT,
    "first_layer": WHOLE,
    "factor_per_layer": NUMBER,
    "log10_ratio": NUMBER,
}
VERDICT_KINDS = FIT_KINDS | {
    "sentence": TEXT,
    "since_step": WHOLE,
    "theory": NUMBER,
    "theory_margin": NUMBER,
    "initial": OBJECT,
    "findings": LIST,
}


class DamagedRecord(ValueError):
    """A file of a run directory cannot be read, or does not hold what it should."""


class DamagedTable(ValueError):
    """A table of a run is lost, cannot be read, or does not hold what it should."""

    def __init__(
        self,
        directory: Path,
        table: str,
        fault: str = "are damaged",
    ):
        """Makes the error.

        Args:
            directory: the run directory.
            table: the name of the table.
            fault: what is wrong with it.
        """
        super().__init__(
            f"the {table} of {directory} {fault}: remove that directory and train the run again"
        )
        self.table = table

    @classmethod
    def lost(cls, directory: Path, table: str) -> "DamagedTable":
        """The error for a table that a run recorded and that is gone.

        Args:
            directory: the run directory.
            table: the name of the table.
        """
        damage = cls(directory, table)
        damage.args = (
            f"{directory / table}.parquet is missing: restore it, or remove that directory and "
            "train the run again",
        )
        return damage

    @classmethod
    def from_error(
        cls,
        directory: Path,
        table: str,
        error: Exception,
    ) -> "DamagedTable":
        """The error for what was raised when the table was read.

        Args:
            directory: the run directory.
            table: the name of the table.
            error: what was raised. Refusals of the operating system leave the table as it is.
        """
        damage = cls(directory, table)
        if isinstance(error, OSError) and error.errno:
            reason = os.strerror(error.errno)
            damage.args = (f"the {table} of {directory} cannot be read: {reason}",)
        return damage


def read_run_info(file: Path) -> JsonObject:
    """The content of a ``run.json``, with the present names of its entries.

    Raises:
        DamagedRecord: the file is missing, is no JSON, or an entry is of another type.
    """
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedRecord(
            f"{file} is missing: restore it, or remove that directory and train the run again"
        ) from None
    except OSError as error:
        raise DamagedRecord(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        raise DamagedRecord(f"{file} is damaged: it is not JSON") from None
    fault = find_fault(info)
    if fault:
        raise DamagedRecord(f"{file} is damaged: {fault}")
    for old_name, name in RENAMED_ENTRIES.items():
        if old_name in info:
            info[name] = info.pop(old_name)
    return info


def is_of_other_version(info: Mapping[str, Any]) -> bool:
    """Whether another version of Fathom trained a run, so that its record may lack settings.

    Records of version 0.2.0 and before also lack the time at which the training began.
    """
    versions = info.get("versions")
    version = versions.get("fathom") if isinstance(versions, dict) else None
    if not isinstance(version, str) or info.get("source") == SOURCE_WATCH:
        return False
    return version != __version__ or not info.get("started")


def find_fault(info: Any) -> str:
    """The first entry of a ``run.json`` that is not what it should be, in words; empty if none."""
    if not isinstance(info, dict):
        return f"it holds {_describe(info)} instead of an object"
    fault = _find_wrong_kind(info, KINDS, "")
    if fault:
        return fault
    verdict = info.get("verdict") or {}
    data = info.get("data") or {}
    counts = data.get("class_counts") or []
    return (
        _find_other_than_numbers(info.get("final") or {}, "final.")
        or _find_other_than_numbers(info.get("seconds") or {}, "seconds.")
        or _find_wrong_kind(verdict, VERDICT_KINDS, "verdict.")
        or _find_wrong_kind(verdict.get("initial") or {}, FIT_KINDS, "verdict.initial.")
        or _find_wrong_kind(data, {"class_counts": LIST}, "data.")
        or _find_other_than_counts(counts, "data.class_counts.")
    )


def _find_wrong_kind(
    entries: JsonObject,
    kinds: dict[str, tuple[type, ...]],
    prefix: str,
) -> str:
    for name, kind in kinds.items():
        value = entries.get(name)
        if value is not None and not _is_of_kind(value, kind):
            return f"{prefix}{name} is {_describe(value)}"
    return ""


def _find_other_than_numbers(entries: dict[Any, Any], prefix: str) -> str:
    for name, value in entries.items():
        if value is not None and not _is_of_kind(value, NUMBER):
            return f"{prefix}{name} is {_describe(value)}"
    return ""


def _find_other_than_counts(values: list[Any], prefix: str) -> str:
    for position, value in enumerate(values):
        if not _is_of_kind(value, WHOLE) or value < 0:
            return f"{prefix}{position} is {_describe(value)}"
    return ""


def _is_of_kind(value: Any, kind: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int) and abs(value) > 2**1000:  # no float can hold it
        return False
    return isinstance(value, kind)


def _describe(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
