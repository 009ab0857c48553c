"""``fathom runs``: the recorded runs as a table."""

from collections.abc import Sequence

from research.reporting.show import show_runs


def main(words: Sequence[str]) -> int:
    """Prints the runs that match every filter; returns the exit code."""
    show_runs(words)
    return 0
