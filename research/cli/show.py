"""``fathom show``: one recorded run in the terminal."""

from collections.abc import Sequence

from research.reporting.json_output import detailed_object, print_json
from research.reporting.selection import find_named_runs
from research.reporting.show import show_run


def main(words: Sequence[str], *, json: bool) -> int:
    """Prints the run that fits the words, or each of several named directories.

    Args:
        words: the run, or filters that fit one run.
        json: whether JSON is printed: a list of runs, of one run most often.

    Raises:
        ValueError: no run is named, or the words fit none or several.
    """
    if not words:
        raise ValueError(
            "show which run? give its directory, a part of its name, filters such as "
            "model.depth=64, or last; fathom runs lists them"
        )
    runs = find_named_runs(words)
    if json:
        for run in runs:
            run.check()
        print_json([detailed_object(run) for run in runs])
        return 0
    for run in runs:
        show_run(run)
    return 0
