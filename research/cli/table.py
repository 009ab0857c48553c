"""``fathom table``: means and intervals over seeds, by setting."""

import sys
from collections.abc import Sequence
from functools import partial

from research.reporting import table_formats
from research.reporting.json_output import print_json
from research.reporting.selection import select_runs, without_damaged_tables
from research.reporting.summary_table import check_choice, parse_names, summary_table
from research.reporting.tables import console

FORMATS = ("text", *table_formats.FORMATS, "json")


def main(
    words: Sequence[str],
    *,
    value: str,
    rows: str,
    columns: str,
    format: str,
    json: bool,
) -> int:
    """Prints the table of the runs that match every filter; returns the exit code.

    Args:
        words: the filters.
        value: the numbers that are averaged, separated by commas.
        rows: the settings of the rows, separated by commas.
        columns: the setting of the columns.
        format: one of ``FORMATS``.
        json: whether JSON is printed, whatever the format.

    Raises:
        ValueError: no run matches, or a name or the format is not known.
    """
    chosen = check_choice("--format", format, FORMATS)
    if json and chosen not in ("text", "json"):
        raise ValueError(f"--json has no effect with --format {chosen}: leave one of them out")
    chosen = "json" if json else chosen
    summarize = partial(
        summary_table,
        values=parse_names(value),
        rows=parse_names(rows),
        columns=columns,
    )
    table = without_damaged_tables(summarize, select_runs(words))
    if chosen in ("csv", "json"):  # which have no room for notes
        for note in table.notes_on_clashes:
            print(f"fathom: {note}", file=sys.stderr)
    if chosen == "text":
        out = console(pipe_width=1000)
        if table.title:
            out.print(table.title, style="bold", soft_wrap=True, markup=False)
        out.print(table_formats.terminal_table(table))
        for note in table.notes:
            out.print(note, soft_wrap=True, markup=False)
        return 0
    if chosen == "json":
        print_json(table_formats.to_json_object(table))
        return 0
    print(table_formats.FORMATS[chosen](table), end="")
    return 0
