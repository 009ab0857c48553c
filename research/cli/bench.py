"""``fathom bench``: measures this machine against the budgets."""

import traceback
from collections.abc import Sequence
from pathlib import Path

from research.benchmark import device_rows
from research.benchmark.rows import ROWS, Row, select_rows
from research.benchmark.table import (
    MeasuredRow,
    device_section,
    markdown_page,
    terminal_table,
    write_device_section,
    write_page,
)
from research.benchmark.timing import Measurement
from research.reporting.tables import console
from research.runner.progress import Progress


def main(
    words: Sequence[str],
    *,
    device: bool = False,
    quick: bool = False,
) -> int:
    """Measures and prints the named rows; if all rows are measured, writes them as a page too.

    Args:
        words: The names of rows; none for all.
        device: Whether the rows are those about an accelerator.
        quick: Whether these are measured with tiny networks, which are not written.

    Returns:
        The exit code: 1 where a budget does not hold or a row could not be measured, else 0. Tiny
        networks have no budget.

    Raises:
        ValueError: There is no row of that name, or no accelerator.
    """
    if quick and not device:
        raise ValueError("--quick is for the rows of --device: add --device")
    if device:
        device_rows.prepare_device(quick=quick)
        sizes = device_rows.QUICK if quick else device_rows.FULL
        rows = device_rows.make_rows(sizes)
    else:
        rows = ROWS
    selected = select_rows(words, rows)
    measured_rows = _measure(selected)
    console().print(terminal_table(measured_rows))
    if len(selected) == len(rows) and not quick:
        print(f"written: {_write(measured_rows, device=device)}")
    for measured in measured_rows:
        if measured.holds is False or measured.measurement.failed:
            return 1
    return 0


def _measure(rows: Sequence[Row]) -> list[MeasuredRow]:
    """Measures the rows; one that raises does not take the others along."""
    measured_rows = []
    with Progress(len(rows)) as progress:
        for row in rows:
            progress.start_runs(row.name)
            try:
                measurement = row.measure(progress.step)
            except Exception as error:
                traceback.print_exc()
                measurement = Measurement(None, f"failed: {type(error).__name__}", failed=True)
            measured_rows.append(MeasuredRow(row, measurement))
    return measured_rows


def _write(measured_rows: Sequence[MeasuredRow], *, device: bool) -> Path:
    if device:
        return write_device_section(device_section(measured_rows, "fathom bench --device"))
    return write_page(markdown_page(measured_rows, "fathom bench"))
