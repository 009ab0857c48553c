"""The recorded rows of a run, read back as they were added, and what W&B gets of them."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from research.records.run_info import SOURCE_WATCH, DamagedTable
from research.records.runs import (
    ENDED,
    INSPECTIONS,
    METRICS,
    PROFILES,
    Columns,
    Diagnostics,
    JsonObject,
    count_rows_on_disk,
    read_parts,
)
from research.records.table_writer import table_to_columns

MISSING = "are missing"


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


def check_rows(
    directory: Path,
    info: JsonObject,
    rows: RecordedRows,
) -> None:
    """Refuses tables of a finished run that have lost rows since.

    Args:
        directory: the run directory.
        info: its ``run.json``.
        rows: the rows of its tables.

    Raises:
        DamagedTable: there are fewer rows than ``run.json`` says, or no profiles for its verdict.
    """
    _check_row_counts(directory, info, rows.num_rows, has_profiles=bool(rows.profiles))


def find_damaged_table(directory: Path, info: JsonObject) -> DamagedTable | None:
    """What is wrong with the tables of a run that has ended; None if they are whole.

    Only the end of each file is read, which holds the number of its rows.

    Args:
        directory: the run directory.
        info: its ``run.json``.
    """
    num_rows = {}
    for table in (METRICS, PROFILES, INSPECTIONS):
        try:
            num_rows[table] = count_rows_on_disk(directory, table)
        except (OSError, pa.ArrowException) as error:
            return DamagedTable.from_error(directory, table, error)
    has_profiles = num_rows[PROFILES] > 0
    try:
        _check_row_counts(directory, info, num_rows[METRICS], has_profiles=has_profiles)
    except DamagedTable as damage:
        return damage
    return None


def _check_row_counts(
    directory: Path,
    info: JsonObject,
    num_rows: int,
    *,
    has_profiles: bool,
) -> None:
    steps = info.get("steps")
    if info.get("status") not in ENDED or not steps:
        return
    is_watched = info.get("source") == SOURCE_WATCH  # such a loop need not log every step
    is_short = num_rows == 0 if is_watched else num_rows < steps
    if is_short:
        fault = f"hold {num_rows} rows instead of {steps}" if num_rows else MISSING
        raise DamagedTable(directory, METRICS, fault)
    verdict = info.get("verdict") or {}
    if verdict.get("factor_per_layer") is not None and not has_profiles:
        raise DamagedTable(directory, PROFILES, MISSING)


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
