"""Writes one table of a run directory: part files while the run lasts, one file at its end."""

import math
import shutil
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from research.records.files import replacing
from research.records.runs import Columns, column_to_array, find_parts, read_file


class CorruptTable(ValueError):
    """A table has fewer rows than it should, or cannot be read."""


class TableWriter:
    """One table: part files on disk, and rows in memory until the next flush.

    Attributes:
        num_rows: rows on disk and in memory.
        part_checksum: the CRC-32 of the content of all part files, in order.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        keep_rows: int,
    ):
        """Opens a table and removes what an earlier attempt wrote after the rows to keep.

        Args:
            directory: the run directory.
            name: ``metrics``, ``profiles`` or ``inspections``.
            keep_rows: how many rows of an earlier attempt remain; they end where a part file ends.

        Raises:
            CorruptTable: the part files do not hold ``keep_rows`` rows, or cannot be read.
        """
        self.num_rows = 0
        self.part_checksum = 0
        self._name = name
        self._file = directory / f"{name}.parquet"
        self._parts_dir = directory / f"{name}.parts"
        self._num_parts = 0
        self._buffer: list[pa.Table] = []
        for part in find_parts(self._parts_dir):
            if self.num_rows < keep_rows:
                self.num_rows += _count_rows(part)
                self._add_part(part)
            else:
                part.unlink()
        if self.num_rows != keep_rows:
            raise CorruptTable(f"expected {keep_rows} rows of {name}, found {self.num_rows}")
        self._file.unlink(missing_ok=True)

    def add(self, columns: Columns) -> None:
        """Appends rows: columns of equal length, each [S, …]."""
        table = _columns_to_table(columns)
        if table.num_rows:
            self._buffer.append(table)
            self.num_rows += table.num_rows

    def flush(self) -> None:
        """Writes the rows in memory as the next part file."""
        if self._buffer:
            self._parts_dir.mkdir(exist_ok=True)
            part = _part_file(self._parts_dir, self._num_parts)
            _write_table(part, _concatenate(self._buffer))
            self._buffer = []
            self._add_part(part)

    def _add_part(self, part: Path) -> None:
        self.part_checksum = zlib.crc32(part.read_bytes(), self.part_checksum)
        self._num_parts += 1

    def read(self) -> Columns:
        """The rows of all part files, as they were added.

        Raises:
            CorruptTable: a part file cannot be read.
        """
        return table_to_columns(self._read_parts())

    def write_final_file(self) -> None:
        """Writes all rows to one file. The part files remain.

        Raises:
            CorruptTable: a part file has disappeared, or cannot be read.
        """
        tables = [*self._read_parts(), *self._buffer]
        num_rows = sum(table.num_rows for table in tables)
        if num_rows != self.num_rows:
            raise CorruptTable(
                f"{self._parts_dir} should hold {self.num_rows} rows, got {num_rows}"
            )
        if tables:
            _write_table(self._file, _concatenate(tables))

    def remove_parts(self) -> None:
        """Removes the part files."""
        shutil.rmtree(self._parts_dir, ignore_errors=True)

    def _read_parts(self) -> list[pa.Table]:
        parts = []
        for file in find_parts(self._parts_dir):
            try:
                parts.append(read_file(file))
            except (OSError, pa.ArrowException) as error:
                raise CorruptTable(f"{file} cannot be read") from error
        return parts


def rewrite_table(directory: Path, name: str, columns: Columns) -> int:
    """Replaces the rows of a table that nobody is writing. At any moment it can be read whole.

    Args:
        directory: the run directory.
        name: the name of the table.
        columns: the new rows, in columns of equal length.

    Returns:
        The number of rows, which are in one part file.
    """
    file = directory / f"{name}.parquet"
    parts_dir = directory / f"{name}.parts"
    table = _columns_to_table(columns)
    if not table.num_rows:
        shutil.rmtree(parts_dir, ignore_errors=True)
        file.unlink(missing_ok=True)
        return 0
    _write_table(file, table)  # from now on it is read instead of the part files
    shutil.rmtree(parts_dir, ignore_errors=True)
    parts_dir.mkdir()
    _write_table(_part_file(parts_dir, 0), table)
    file.unlink()
    return table.num_rows


def _part_file(parts_dir: Path, number: int) -> Path:
    return parts_dir / f"{number:06d}.parquet"


def table_to_columns(parts: list[pa.Table]) -> Columns:
    """The rows of the parts of a table, as they were added; masked where a number is missing."""
    if not parts:
        return {}
    whole = _concatenate(parts)
    columns = {}
    for name in whole.column_names:
        column = whole.column(name).combine_chunks()
        columns[name] = _column_to_array(column)
    return columns


def _count_rows(part: Path) -> int:
    try:
        return pq.read_metadata(part).num_rows
    except (OSError, pa.ArrowException) as error:
        raise CorruptTable(f"{part.parent.name}/{part.name} cannot be read") from error


def _concatenate(tables: list[pa.Table]) -> pa.Table:
    """Appends tables; a column that a table does not have is null in its rows."""
    return pa.concat_tables(tables, promote_options="default")


def _columns_to_table(columns: Columns) -> pa.Table:
    arrow_columns = {}
    for name, values in columns.items():
        arrow_columns[name] = _array_to_column(values)
    return pa.table(arrow_columns)


def _array_to_column(values: np.ndarray) -> pa.Array:
    """Numbers for [S], lists for [S, N], lists of lists for [S, N, K].

    NaN stays NaN; masked values become null.
    """
    if values.ndim == 1:
        mask = np.ma.getmaskarray(values)
        return pa.array(np.ma.getdata(values), mask=mask)
    flat = np.ascontiguousarray(values).reshape(-1)
    column = pa.array(flat)
    for axis in reversed(range(1, values.ndim)):
        num_lists = math.prod(values.shape[:axis])
        length = values.shape[axis]
        offsets = np.arange(num_lists + 1, dtype=np.int32) * length
        column = pa.ListArray.from_arrays(offsets, column)
    return column


def _column_to_array(column: pa.Array) -> np.ndarray:
    """The inverse of ``_array_to_column``, but rows without a list are NaN."""
    if pa.types.is_list(column.type):
        return column_to_array(column)
    if not column.null_count:
        return column_to_array(column)
    values = column_to_array(column.fill_null(0))
    mask = column_to_array(column.is_null())
    return np.ma.masked_array(values, mask)


def _write_table(path: Path, table: pa.Table) -> None:
    """Writes a file completely or not at all."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
