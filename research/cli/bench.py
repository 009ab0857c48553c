"""``fathom bench``: measures this machine against the budgets."""

from collections.abc import Sequence

from research.benchmark.rows import ROWS, select_rows
from research.benchmark.table import MeasuredRow, markdown_page, terminal_table, write_page
from research.reporting.tables import console
from research.runner.progress import Progress


def main(words: Sequence[str]) -> int:
    """Measures and prints the named rows; if all rows are measured, writes them as a page too.

    Returns:
        The exit code: 1 where a budget does not hold, else 0.

    Raises:
        ValueError: There is no row of that name.
    """
    rows = select_rows(words)
    measured_rows = []
    with Progress(len(rows)) as progress:
        for row in rows:
            progress.start_runs(row.name)
            measured_rows.append(MeasuredRow(row, row.measure(progress.step)))
    console().print(terminal_table(measured_rows))
    if len(rows) == len(ROWS):
        command = " ".join(["fathom bench", *words])
        print(f"written: {write_page(markdown_page(measured_rows, command))}")
    for measured in measured_rows:
        if measured.holds is False:
            return 1
    return 0
