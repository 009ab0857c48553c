"""``fathom runs``: the recorded runs as a table."""

from collections.abc import Sequence

from research.reporting.json_output import print_json, run_object
from research.reporting.selection import select_runs
from research.reporting.show import show_runs


def main(words: Sequence[str], *, json: bool) -> int:
    """Prints the runs that match every filter; returns the exit code.

    Args:
        words: the filters.
        json: whether JSON is printed instead of a table: a list of runs.
    """
    if json:
        print_json([run_object(run) for run in select_runs(words)])
        return 0
    show_runs(words)
    return 0
