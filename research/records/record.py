"""Writes a run directory: ``run.json`` and the tables metrics, profiles and inspections.

While a run lasts, its rows are in numbered part files. Every file is written under a temporary name
and then renamed, so a killed run can be read up to its last flush. Every column keeps the dtype of
the measurement. If a run is interrupted and has a checkpoint, its part files remain after the final
tables are written: the next attempt keeps the rows up to that checkpoint and removes the others.
"""

import fcntl
import json
import math
import os
import sys
import time
import weakref
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from research.records.files import ReservedSpace, replacing
from research.records.run_info import DamagedRecord, read_run_info
from research.records.runs import INSPECTIONS, METRICS, PROFILES, Columns, JsonObject
from research.records.table_writer import TableWriter, rewrite_table

FLUSH_SECONDS = 2.0
RESERVED_FILE = "reserved.tmp"  # in a run directory, while the run lasts
SECONDS_OF_A_LOOK = 0.1  # much longer than a reader holds the lock
CLOSED = -1  # in place of a file descriptor
TABLES = (METRICS, PROFILES, INSPECTIONS)


class RunLocked(ValueError):
    """Another process is writing the run."""


class Lock:
    """The exclusive right to write a run directory, until it is released or the process ends."""

    def __init__(self, directory: Path):
        """Locks the directory itself; no file is created.

        Raises:
            RunLocked: another process holds the lock.
            OSError: the file system has no locks.
        """
        self.directory = directory
        self._descriptor = os.open(directory, os.O_RDONLY)
        leave_to_parent = partial(_leave_to_parent, weakref.ref(self))
        os.register_at_fork(after_in_child=leave_to_parent)
        # A reader that looks whether the run is being written holds the lock for a moment.
        if self._try_to_lock():
            return
        time.sleep(SECONDS_OF_A_LOOK)
        if self._try_to_lock():
            return
        self.release()
        raise RunLocked(
            f"{directory} is being trained by another process, or uploaded: "
            "wait until it ends, or choose another name="
        )

    def _try_to_lock(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # some file systems of clusters have no locks
            self.release()
            raise OSError(error.errno, error.strerror, str(self.directory)) from error
        return True

    def fileno(self) -> int:
        """The file descriptor that holds the lock; a process that inherits it holds it too."""
        return self._descriptor

    def release(self) -> None:
        """Lets other processes lock the run."""
        if self._descriptor != CLOSED:
            os.close(self._descriptor)
            self._descriptor = CLOSED


def _leave_to_parent(reference: weakref.ref[Lock]) -> None:
    """Closes a lock in a forked process, which would hold it longer than the process that took it.

    A process that is started with the descriptor, as ``fathom sync`` does, holds the lock too.
    """
    lock = reference()
    if lock is not None:
        lock.release()


class RunRecord:
    """Writes one run directory.

    Attributes:
        directory: the run directory.
        info: the content of ``run.json``.
        flush_scale: factor on the time that rows may stay in memory, 1 for a single run.
    """

    def __init__(
        self,
        lock: Lock,
        info: JsonObject,
        keep_rows: Mapping[str, int] | None = None,
    ):
        """Opens the tables and writes ``run.json`` with the status ``running`` and the time.

        Args:
            lock: the lock on the run directory.
            info: the first content of ``run.json``.
            keep_rows: how many rows of each table remain from an earlier attempt; by default none.

        Raises:
            CorruptTable: a table does not hold as many rows as should remain.
            OSError: ``run.json`` cannot be written.
        """
        self._lock = lock
        self.directory = lock.directory
        self.info = info
        self._tables = {}
        for name in TABLES:
            num_kept = keep_rows.get(name, 0) if keep_rows else 0
            self._tables[name] = TableWriter(self.directory, name, num_kept)
        self.flush_scale = 1.0
        self._last_flush = time.monotonic()
        self._reserve = ReservedSpace(self.directory / RESERVED_FILE)
        try:
            started = datetime.now(UTC).isoformat(timespec="microseconds")
            self.update(status="running", started=started)
        except OSError:
            self._reserve.release()
            raise

    def update(self, **changes: Any) -> None:
        """Changes entries of ``run.json``."""
        self.info |= changes
        write_json(self.directory / "run.json", self.info)

    def fail(self, **changes: Any) -> None:
        """Changes entries of ``run.json`` although the disk may be full.

        The tables stay as they are: the rows that are on disk remain in part files.
        """
        self._reserve.release()
        self.update(**changes)

    def add(self, metrics: Columns, profiles: Columns) -> None:
        """Appends rows: metrics [S], profiles [S', N] with their ``step`` [S']."""
        self._tables[METRICS].add(metrics)
        self._tables[PROFILES].add(profiles)
        waiting = time.monotonic() - self._last_flush
        if waiting > FLUSH_SECONDS * self.flush_scale:
            self.flush()

    def add_inspections(self, step: int, inspections: Columns) -> None:
        """Appends what one step measured: numbers or arrays of any shape, without a step axis."""
        if not inspections:
            return
        row = {"step": np.array([step])}
        for name, value in inspections.items():
            row[name] = np.asarray(value)[None]
        self._tables[INSPECTIONS].add(row)

    def flush(self) -> dict[str, int]:
        """Writes the rows in memory to disk; returns the number of rows of each table."""
        for table in self._tables.values():
            table.flush()
        self._last_flush = time.monotonic()
        return {name: table.num_rows for name, table in self._tables.items()}

    def part_checksums(self) -> dict[str, int]:
        """The CRC-32 of the part files of each table, which changes with each flush."""
        return {name: table.part_checksum for name, table in self._tables.items()}

    def replace_rows(self, table: str, columns: Columns) -> None:
        """Replaces all rows of a table.

        Args:
            table: the name of the table.
            columns: the new rows, in columns of equal length.
        """
        num_rows = rewrite_table(self.directory, table, columns)
        self._tables[table] = TableWriter(self.directory, table, num_rows)

    def read(self, table: str) -> Columns:
        """The rows of a table that are on disk, as they were added.

        Raises:
            CorruptTable: the table cannot be read.
        """
        return self._tables[table].read()

    def close(self, *, keep_parts: bool = False, **changes: Any) -> None:
        """Writes the final tables and the final ``run.json``. The run stays locked.

        Args:
            keep_parts: keep the part files, because a later attempt can resume from a checkpoint.
            **changes: entries of ``run.json``.

        Raises:
            OSError: a file cannot be written.
            CorruptTable: rows that were written have disappeared, or cannot be read.
        """
        for table in self._tables.values():
            table.write_final_file()
        self._reserve.release()
        self.update(**changes)
        if keep_parts:
            return
        # Only now does run.json say that the run has ended, so that nobody needs the parts.
        for table in self._tables.values():
            table.remove_parts()

    def discard(self) -> None:
        """Removes ``run.json`` of a run that never started. The run stays locked."""
        self._reserve.release()
        (self.directory / "run.json").unlink(missing_ok=True)

    def release(self) -> None:
        """Lets other processes lock the run."""
        self._lock.release()


class NullRecord(RunRecord):
    """Stands in for the record in processes that do not write it."""

    def __init__(self, info: JsonObject):
        self.info = info
        self.flush_scale = 1.0

    def update(self, **changes: Any) -> None:
        """Changes entries in memory."""
        self.info |= changes

    def add(self, metrics: Columns, profiles: Columns) -> None:
        """Does nothing."""

    def add_inspections(self, step: int, inspections: Columns) -> None:
        """Does nothing."""

    def flush(self) -> dict[str, int]:
        """Does nothing; there are no tables."""
        return {}

    def part_checksums(self) -> dict[str, int]:
        """Does nothing; there are no part files."""
        return {}

    def close(self, *, keep_parts: bool = False, **changes: Any) -> None:
        """Changes entries in memory."""
        self.update(**changes)

    def fail(self, **changes: Any) -> None:
        """Changes entries in memory."""
        self.update(**changes)

    def discard(self) -> None:
        """Does nothing; there is no file."""

    def release(self) -> None:
        """Does nothing; there is no lock."""


def is_being_written(directory: Path) -> bool:
    """Whether a process is training the run in ``directory``, also where that cannot be known."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_info(directory: Path) -> JsonObject | None:
    """The content of ``run.json``; None if it is missing or damaged."""
    try:
        return read_run_info(directory / "run.json")
    except DamagedRecord:
        return None


def report_replaced_rows(directory: Path) -> None:
    """Says on standard error that rows in a directory are replaced, as no ``run.json`` tells whose.

    Call it before the record is opened. It says nothing where there are no rows, or a ``run.json``
    that can be read.
    """
    has_rows = False
    for table in TABLES:
        file = directory / f"{table}.parquet"
        parts = directory / f"{table}.parts"
        has_rows = has_rows or file.exists() or parts.is_dir()
    if not has_rows or read_info(directory) is not None:
        return
    fault = "damaged" if (directory / "run.json").exists() else "missing"
    print(
        f"fathom: {directory.name} does not go on from the rows in its folder and replaces them, "
        f"because its run.json is {fault}",
        file=sys.stderr,
    )


def write_json(path: Path, value: Any) -> None:
    r"""Writes a JSON file completely or not at all; NaN and infinities become null.

    Bytes of a path that are no text become escape sequences such as ``\\udcff``, as in JSON.
    """
    value = _to_json_value(value)
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")


def _to_json_value(value: Any) -> Any:
    """Converts NumPy numbers to Python numbers, and numbers that are not finite to None."""
    if isinstance(value, dict):
        return {key: _to_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_value(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
