"""The run directory, the local source of truth: ``run.json``, and the tables metrics, profiles and inspections.

While a run lasts, rows lie in numbered part files; every file is written beside its place and renamed into it, so
a killed run reads back up to its last flush. Parts are as wide as what was measured, the profiles' final table is
float32. Where a run ends before its time with a checkpoint to go on from, the parts stay beside the tables: the next
attempt keeps the rows in front of that checkpoint and drops the others.
"""

import fcntl
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research.records.table_writer import Columns, TableWriter

FLUSH_SECONDS = 2.0
TABLES = ("metrics", "profiles", "inspections")


class RunLocked(ValueError):
    """Another process is writing the run."""


class Lock:
    """The right to look after the run in ``directory``, until it is released or the process ends."""

    def __init__(self, directory: Path):
        """Raises Taken where another process has it."""
        self.directory = directory
        self._descriptor = os.open(
            directory, os.O_RDONLY
        )  # it is the directory itself that is locked
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            said = f"{directory} is being trained by another process: wait for it, or give another name="
            raise RunLocked(said) from None

    def release(self) -> None:
        """Lets others have it."""
        os.close(self._descriptor)


class RunRecord:
    """Writes one run's directory."""

    def __init__(self, lock: Lock, info: dict[str, Any], kept: Mapping[str, int] | None = None):
        """``kept``: how many rows of each table stay of an earlier attempt; all else that it left is dropped.

        Raises:
            Damaged: where there are fewer rows than are to stay.
        """
        self._lock = lock
        self.directory = lock.directory
        self.info = info
        self._tables = {
            name: TableWriter(lock.directory, name, (kept or {}).get(name, 0)) for name in TABLES
        }
        self.patience = 1.0  # how much longer rows may wait than those of a run alone
        self._flushed = time.monotonic()
        self.update(status="running")

    def update(self, **changes: Any) -> None:
        """Changes entries of ``run.json``."""
        self.info |= changes
        write_json(self.directory / "run.json", self.info)

    def add(self, metrics: Columns, profiles: Columns) -> None:
        """Appends rows: columns of one length each, profile columns [S, N]."""
        self._tables["metrics"].add(metrics)
        self._tables["profiles"].add(profiles)
        if time.monotonic() - self._flushed > FLUSH_SECONDS * self.patience:
            self.flush()

    def flush(self) -> dict[str, int]:
        """Writes the rows that wait; how many each table holds by then."""
        for table in self._tables.values():
            table.flush()
        self._flushed = time.monotonic()
        return {name: table.rows for name, table in self._tables.items()}

    def read(self, table: str) -> Columns:
        """The rows that were written so far, as they were added.

        Raises:
            Damaged: where they cannot be read.
        """
        return self._tables[table].read()

    def inspect(self, step: int, found: dict[str, np.ndarray]) -> None:
        """Appends what was measured beside one step: numbers or arrays of any shape, as wide as they are."""
        if found:
            self._tables["inspections"].add(
                {name: np.asarray(value)[None] for name, value in {"step": step, **found}.items()}
            )

    def close(self, *, goes_on: bool = False, **changes: Any) -> None:
        """Joins the parts into one file a table and writes the final ``run.json``; the run stays locked.

        ``goes_on``: there is a checkpoint, so the parts stay too.
        """
        for table in self._tables.values():
            table.join()
        self.update(**changes)
        for table in self._tables.values() if not goes_on else ():
            table.drop()  # not before run.json says that the run is over

    def release(self) -> None:
        """Lets others look after this run."""
        self._lock.release()


class NullRecord(RunRecord):
    """A record that another process writes."""

    def __init__(self, info: dict[str, Any]):
        self.info = info
        self.patience = 1.0

    def update(self, **changes: Any) -> None:
        """Changes entries, in memory."""
        self.info |= changes

    def add(self, metrics: Columns, profiles: Columns) -> None:
        """Leaves the rows to the other process."""

    def flush(self) -> dict[str, int]:
        """Holds no rows."""
        return {}

    def close(self, *, goes_on: bool = False, **changes: Any) -> None:
        """Notes how the run ended."""
        self.update(**changes)

    def release(self) -> None:
        """Holds nothing."""


def is_being_written(directory: Path) -> bool:
    """Whether a process is training the run in ``directory``."""
    try:
        Lock(directory).release()
    except RunLocked:
        return True
    return False


def read_info(directory: Path) -> dict[str, Any] | None:
    """``run.json``; None where there is none that can be read."""
    try:
        return json.loads((directory / "run.json").read_text())
    except (OSError, json.JSONDecodeError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all; what is not finite becomes null."""
    beside = path.with_suffix(".tmp")
    beside.write_text(
        json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )
    os.replace(beside, path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
