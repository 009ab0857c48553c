"""Evenly spaced rows of a table that grows, in bounded memory."""

import numpy as np

from research.records.rows import select_rows
from research.records.runs import Columns


class ThinnedRows:
    """Keeps the first row, the last one, and evenly spaced ones between them.

    Which rows are kept depends on their number alone, not on how many are added at a time.
    """

    def __init__(self, capacity: int):
        """Keeps nothing yet.

        Args:
            capacity: the largest number of rows, besides the last one.
        """
        self._capacity = capacity
        self._stride = 1
        self._num_added = 0
        self._numbers: list[int] = []  # of the rows that are kept, from 0
        self._kept: list[Columns] = []
        self._last: Columns = {}

    def add(self, columns: Columns) -> None:
        """Adds rows: columns with axis 0 over the rows."""
        num_rows = len(next(iter(columns.values()))) if columns else 0
        if not num_rows:
            return
        first = -self._num_added % self._stride
        chosen = slice(first, None, self._stride)
        copied = {name: np.array(values[chosen]) for name, values in columns.items()}
        for place, row in enumerate(range(num_rows)[chosen]):
            self._numbers.append(self._num_added + row)
            self._kept.append(select_rows(copied, place))
        self._last = _copy_row(select_rows(columns, num_rows - 1))
        self._num_added += num_rows
        is_full = len(self._kept) > self._capacity
        while len(self._kept) > self._capacity:
            self._stride *= 2
            self._numbers = self._numbers[::2]
            self._kept = self._kept[::2]
        if is_full:
            self._kept = [_copy_row(row) for row in self._kept]

    def __len__(self) -> int:
        return len(self._kept)

    def columns(self) -> Columns:
        """The rows that are kept, in order; empty if there are none."""
        rows = list(self._kept)
        if rows and self._numbers[-1] != self._num_added - 1:
            rows.append(self._last)
        if not rows:
            return {}
        columns = {}
        for name in rows[0]:
            columns[name] = np.stack([row[name] for row in rows])
        return columns


def _copy_row(row: Columns) -> Columns:
    """A row by itself; a view would keep the others in memory."""
    return {name: np.array(values) for name, values in row.items()}
