"""The run directory, the local source of truth: ``run.json``, ``metrics.parquet``, ``profiles.parquet``.

While a run lasts, rows lie in numbered part files; every file is written beside its place and renamed into it, so
a killed run reads back up to its last flush.
"""

import fcntl
import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FLUSH_SECONDS = 2.0
TABLES = ("metrics", "profiles")
Columns = dict[str, np.ndarray]


class Record:
    """Writes one run's directory; whatever an earlier attempt left there is dropped."""

    def __init__(self, directory: Path, info: dict[str, Any]):
        """Raises ValueError where another process is writing the same run."""
        self._lock = _lock(directory)
        self.directory = directory
        self.info = info
        self._tables = {name: _Parts(directory, name) for name in TABLES}
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
            for table in self._tables.values():
                table.flush()
            self._flushed = time.monotonic()

    def close(self, **changes: Any) -> None:
        """Joins the parts into one file a table and writes the final ``run.json``."""
        try:
            for table in self._tables.values():
                table.join()
            self.update(**changes)
        finally:
            self.release()

    def release(self) -> None:
        """Lets others write this run."""
        os.close(self._lock)


def _lock(directory: Path) -> int:
    """Locks the directory itself until the descriptor is closed or the process ends."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ValueError(
            f"{directory} is being trained by another process: wait for it, or give another name="
        ) from None
    return descriptor


def read_info(directory: Path) -> dict[str, Any] | None:
    """``run.json``; None where there is none that can be read."""
    try:
        return json.loads((directory / "run.json").read_text())
    except (OSError, json.JSONDecodeError):
        return None


class _Parts:
    def __init__(self, directory: Path, name: str):
        self.file = directory / f"{name}.parquet"
        self.folder = directory / f"{name}.parts"
        self.pending: list[pa.Table] = []
        self.count = 0
        shutil.rmtree(self.folder, ignore_errors=True)
        self.file.unlink(missing_ok=True)

    def add(self, columns: Columns) -> None:
        if columns and len(next(iter(columns.values()))):
            self.pending.append(pa.table({name: _column(values) for name, values in columns.items()}))

    def flush(self) -> None:
        if self.pending:
            self.folder.mkdir(exist_ok=True)
            _write_table(self.folder / f"{self.count:06d}.parquet", _concatenate(self.pending))
            self.pending, self.count = [], self.count + 1

    def join(self) -> None:
        tables = [*read_parts(self.folder), *self.pending]
        if tables:
            _write_table(self.file, _concatenate(tables))
        shutil.rmtree(self.folder, ignore_errors=True)


def read_parts(folder: Path) -> list[pa.Table]:
    """The part files of an unfinished table, in order."""
    return [pq.read_table(file) for file in sorted(folder.glob("*.parquet"))]


def _concatenate(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="default")


def _column(values: np.ndarray) -> pa.Array:
    """A plain column, a list column for [S, N], lists of lists for [S, N, K]; NaN stays NaN, masked becomes null."""
    if values.ndim == 1:
        return pa.array(np.ma.getdata(values), mask=np.ma.getmaskarray(values))
    column = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
    for axis in reversed(range(1, values.ndim)):
        rows, length = math.prod(values.shape[:axis]), values.shape[axis]
        column = pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * length, column)
    return column


def _write_table(path: Path, table: pa.Table) -> None:
    beside = path.with_suffix(".tmp")
    pq.write_table(table, beside)
    os.replace(beside, path)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all; what is not finite becomes null."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    os.replace(beside, path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
