"""``fathom compare``: what differs between two runs, or two groups of runs."""

from collections.abc import Sequence

from research.reporting.comparison import compare_runs
from research.reporting.comparison_report import comparison_object, print_comparison
from research.reporting.json_output import print_json
from research.reporting.selection import (
    RecordCheck,
    find_runs_of,
    match_runs,
    without_damaged_tables,
)
from research.reporting.tables import console


def main(
    words: Sequence[str],
    *,
    out: str,
    json: bool,
) -> int:
    """Compares what the first two words name; returns the exit code.

    Args:
        words: A and B, each a directory, a part of a name or filters separated by blanks; further
            words are filters on both.
        out: where a figure is written; empty for none.
        json: whether JSON is printed.

    Raises:
        ValueError: fewer than two words are given, or no run matches.
    """
    if len(words) < 2:
        raise ValueError(
            "compare which runs? give two: a directory, a part of a name, or filters such as "
            "skip=none; fathom runs lists them"
        )
    sides = []
    readable = RecordCheck()
    for word in words[:2]:
        runs = find_runs_of(word, readable)
        sides.append(match_runs(runs, words[2:]) if words[2:] else runs)
    comparison = without_damaged_tables(compare_runs, *sides)
    drawing = None
    target = None
    if out:
        from research.reporting.figures import check_target
        from research.reporting.plots.comparison import draw_sides

        target = check_target("--out", out)
        drawing = without_damaged_tables(draw_sides, comparison.a, comparison.b)
    if json:
        print_json(comparison_object(comparison))
    else:
        print_comparison(comparison, console())
    if drawing and target:
        files = drawing.save(target)
        if not json:
            print("figure:", *files)
    return 0
