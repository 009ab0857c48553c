"""The rows that a verdict is formed from, in bounded memory."""

from collections.abc import Mapping

import numpy as np

Columns = dict[str, np.ndarray]
CAPACITY = 512


def _select_rows(columns: Mapping[str, np.ndarray], rows: slice) -> Columns:
    return {name: np.asarray(values)[rows] for name, values in columns.items()}


def _copy_columns(columns: Columns) -> Columns:
    return {name: np.array(values) for name, values in columns.items()}


class RowHistory:
    """Rows at even distances over a run, and its last row.

    Which rows are kept depends on their number alone, not on how they arrive. So a run that was
    resumed is judged like one that was not.
    """

    def __init__(self, capacity: int = CAPACITY):
        """Starts without rows.

        Args:
            capacity: at least half of this number of rows is kept of a long run, at most all of it.
        """
        self._capacity = capacity
        self._stride = 1
        self._num_rows = 0
        self._pieces: list[Columns] = []
        self._num_kept = 0
        self._last: Columns = {}

    def __len__(self) -> int:
        """The rows that were added."""
        return self._num_rows

    def add(self, columns: Mapping[str, np.ndarray]) -> None:
        """Adds rows.

        Args:
            columns: arrays with the rows on axis 0, the same columns at every call.
        """
        num_new = len(columns["step"])
        if not num_new:
            return
        first = -self._num_rows % self._stride
        self._keep(_select_rows(columns, slice(first, None, self._stride)))
        self._last = _select_rows(columns, slice(-1, None))
        self._num_rows += num_new
        while self._num_kept > self._capacity:
            self._thin_out()

    def _keep(self, rows: Columns) -> None:
        if len(rows["step"]):
            self._pieces.append(_copy_columns(rows))
            self._num_kept += len(rows["step"])

    def _thin_out(self) -> None:
        """Drops every second row."""
        rows = self._concatenate(self._pieces)
        every_second = _copy_columns(_select_rows(rows, slice(None, None, 2)))
        self._pieces = [every_second]
        self._num_kept = len(every_second["step"])
        self._stride *= 2

    def columns(self) -> Columns:
        """The rows that are kept, in order; empty without rows."""
        if not self._num_rows:
            return {}
        rows = self._concatenate(self._pieces)
        self._pieces = [rows]
        if rows["step"][-1] == self._last["step"][-1]:
            return rows
        return self._concatenate([rows, self._last])

    @staticmethod
    def _concatenate(pieces: list[Columns]) -> Columns:
        if len(pieces) == 1:
            return pieces[0]
        columns = {}
        for name in pieces[0]:
            columns[name] = np.concatenate([piece[name] for piece in pieces])
        return columns
