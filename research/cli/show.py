"""``fathom show``: one recorded run in the terminal."""

from collections.abc import Sequence

from research.reporting.selection import find_named_runs
from research.reporting.show import show_run


def main(words: Sequence[str]) -> int:
    """Prints the run that fits the words, or each of several named directories.

    Raises:
        ValueError: no run is named, or the words fit none or several.
    """
    if not words:
        raise ValueError(
            "show which run? give its directory, a part of its name, filters such as "
            "model.depth=64, or last; fathom runs lists them"
        )
    for run in find_named_runs(words):
        show_run(run)
    return 0
