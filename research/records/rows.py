"""The recorded rows of a run, read back as they were added, and what W&B gets of them."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from research.records.run_info import DamagedTable
from research.records.runs import (
    INSPECTIONS,
    METRICS,
    PROFILES,
    Columns,
    Diagnostics,
    read_parts,
)
from research.records.table_writer import table_to_columns


@dataclass(frozen=True)
class RecordedRows:
    """The rows of the three tables of a run, as columns.

    Attributes:
        metrics: numbers by name [S], with their ``step`` [S]; masked where a step has no value.
        profiles: gauges by name [S', N], with their ``step`` [S']; may be empty.
        inspections: measurements on an interval, with their ``step``; may be empty.
    """

    metrics: Columns
    profiles: Columns
    inspections: Columns

    @property
    def num_rows(self) -> int:
        """The rows of metrics; fewer than the steps where a loop does not record every step."""
        return len(self.metrics["step"]) if self.metrics else 0

    def split(self, num_rows: int) -> "Iterator[RecordedRows]":
        """The rows in parts of at most ``num_rows`` rows of metrics."""
        if not self.metrics:
            return
        steps = self.metrics["step"]
        # A loop may count tokens or examples, so that its steps lie far apart.
        starts = steps[::num_rows].tolist()
        end_of_all = int(steps[-1]) + 1
        for start, end in itertools.pairwise([*starts, end_of_all]):
            yield RecordedRows(
                metrics=_select_steps(self.metrics, start, end),
                profiles=_select_steps(self.profiles, start, end),
                inspections=_select_steps(self.inspections, start, end),
            )

    def row(self, number: int) -> "RecordedRows":
        """A single row of metrics, with what else was measured at its step."""
        step = int(self.metrics["step"][number])
        return RecordedRows(
            metrics=_select_steps(self.metrics, step, step + 1),
            profiles=_select_steps(self.profiles, step, step + 1),
            inspections=_select_steps(self.inspections, step, step + 1),
        )

    def diagnostics(self) -> Diagnostics:
        """What was measured on an interval: counted exponents and inspections, by step."""
        return diagnostics_by_step(self.profiles, self.inspections)


def _select_steps(
    columns: Columns,
    start: int,
    end: int,
) -> Columns:
    """The rows of the steps from ``start`` up to ``end``."""
    if not columns:
        return {}
    first, last = np.searchsorted(columns["step"], [start, end])
    return select_rows(columns, slice(first, last))


def read_rows(directory: Path) -> RecordedRows:
    """Reads the tables of a run, from their part files while there is no final file.

    Raises:
        DamagedTable: a table cannot be read.
    """
    return RecordedRows(
        metrics=_read_table(directory, METRICS),
        profiles=_read_table(directory, PROFILES),
        inspections=_read_table(directory, INSPECTIONS),
    )


def _read_table(directory: Path, name: str) -> Columns:
    try:
        parts = read_parts(directory, name)
    except (OSError, pa.ArrowException) as error:
        raise DamagedTable.from_error(directory, name, error) from error
    return table_to_columns(parts)


def diagnostics_by_step(profiles: Columns, inspections: Columns) -> dict[int, Columns]:
    """What was measured on an interval, by step, without a step axis.

    Args:
        profiles: the recorded profiles. Where exponents were counted, all gauges of the row count
            as measured on an interval.
        inspections: the recorded inspections.
    """
    diagnostics: dict[int, Columns] = {}
    for row in rows_with_exponents(profiles):
        gauges = select_rows(profiles, row)
        step = int(gauges.pop("step"))
        diagnostics[step] = gauges
    steps = inspections.get("step", np.zeros(0, int))
    for row, step in enumerate(steps.tolist()):
        at_step = diagnostics.get(step, {})
        diagnostics[step] = at_step | select_rows(inspections, row)
    return diagnostics


def rows_with_exponents(profiles: Columns) -> list[int]:
    """The rows of the profiles at whose steps exponents were counted."""
    if "signal_exponent" not in profiles:
        return []
    counts = profiles["signal_exponent"]
    was_counted = ~np.isnan(counts[:, 0, 0])
    return np.flatnonzero(was_counted).tolist()


def select_rows(columns: Columns, index: Any) -> Columns:
    """Indexes axis 0 of every column."""
    return {name: values[index] for name, values in columns.items()}
