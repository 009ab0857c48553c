"""A table of a run directory in parts, each written beside its place and renamed into it, and its columns as arrays."""

import math
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from research.records.runs import as_array

Columns = dict[str, np.ndarray]


class CorruptTable(ValueError):
    """Rows that a record should hold are not there; ``str`` says which."""


class TableWriter:
    """The rows of one table while its run lasts: numbered files, and what waits to be written."""

    def __init__(self, directory: Path, name: str, kept: int):
        """Keeps the first ``kept`` rows that lie there; raises Damaged where there are fewer."""
        self.file = directory / f"{name}.parquet"
        self.folder = directory / f"{name}.parts"
        self.pending: list[pa.Table] = []
        self.rows = self.count = 0  # rows that are pending among them, parts
        for part in sorted(self.folder.glob("*.parquet")):
            if self.rows < kept:
                self.rows = self.rows + _rows(part)
                self.count = self.count + 1
            else:
                part.unlink()
        if self.rows != kept:
            raise CorruptTable(f"{kept} rows of its {name} should be there, found {self.rows}")
        self.file.unlink(missing_ok=True)

    def add(self, columns: Columns) -> None:
        """Appends rows."""
        if columns and len(next(iter(columns.values()))):
            self.pending.append(
                pa.table({name: _column(values) for name, values in columns.items()})
            )
            self.rows += self.pending[-1].num_rows

    def flush(self) -> None:
        """Writes what waits as the next part."""
        if self.pending:
            self.folder.mkdir(exist_ok=True)
            write_table(self.folder / f"{self.count:06d}.parquet", _concatenate(self.pending))
            self.pending = []
            self.count = self.count + 1

    def read(self) -> Columns:
        """The rows of all parts; raises Damaged where one cannot be read."""
        try:
            tables = read_parts(self.folder)
        except (OSError, pa.ArrowException) as error:
            raise CorruptTable(f"its {self.file.stem} cannot be read") from error
        whole = _concatenate(tables) if tables else pa.table({})
        return {name: _values(whole.column(name).combine_chunks()) for name in whole.column_names}

    def join(self) -> None:
        """Writes all rows as one file."""
        tables = [*read_parts(self.folder), *self.pending]
        if tables:
            whole = _concatenate(tables)
            write_table(self.file, _narrow(whole) if self.file.stem == "profiles" else whole)

    def drop(self) -> None:
        """Removes the parts."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _rows(part: Path) -> int:
    try:
        return pq.read_metadata(part).num_rows
    except (OSError, pa.ArrowException) as error:
        raise CorruptTable(f"{part.parent.name}/{part.name} cannot be read") from error


def read_parts(folder: Path) -> list[pa.Table]:
    """The part files of an unfinished table, in order."""
    return [pq.read_table(file) for file in sorted(folder.glob("*.parquet"))]


def _concatenate(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="default")


def _column(values: np.ndarray) -> pa.Array:
    """A plain column, a list column for [S, N], lists of lists for [S, N, K]; NaN stays NaN, masked becomes null."""
    if values.ndim == 1:
        return pa.array(np.ma.getdata(values), mask=np.ma.getmaskarray(values))
    column = pa.array(np.ascontiguousarray(values).reshape(-1))
    for axis in reversed(range(1, values.ndim)):
        rows = math.prod(values.shape[:axis])
        length = values.shape[axis]
        column = pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * length, column)
    return column


def _values(column: pa.Array) -> np.ndarray:
    """What ``_column`` was given; rows of lists that are null are NaN."""
    if pa.types.is_list(column.type):
        return as_array(column)
    values = (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False)
    return (
        np.ma.masked_array(values, column.is_null().to_numpy(zero_copy_only=False))
        if column.null_count
        else values
    )


def _narrow(table: pa.Table) -> pa.Table:
    """Lists as lists of float32; numbers by themselves stay as they are."""
    fields = [pa.field(field.name, _in_float32(field.type)) for field in table.schema]
    return table.cast(pa.schema(fields))


def _in_float32(type_: pa.DataType, inside: bool = False) -> pa.DataType:
    if pa.types.is_list(type_):
        return pa.list_(_in_float32(type_.value_type, inside=True))
    return pa.float32() if inside else type_


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a table whole or not at all."""
    beside = path.with_suffix(".tmp")
    pq.write_table(table, beside)
    os.replace(beside, path)
