"""``fathom plot``: figures of anybody's runs."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.markup import escape

from research.records.runs import Run
from research.reporting.selection import ROOT, select_runs, without_damaged_tables
from research.reporting.tables import console


def main(
    words: Sequence[str],
    *,
    out: str,
    **options: str,
) -> int:
    """Draws the runs that match every filter; returns the exit code.

    Args:
        words: the filters.
        out: where the figure is written; empty for the folder that the runs share.
        **options: the fields of ``PlotOptions``.

    Raises:
        ValueError: no run matches, or a name is not known.
    """
    from research.reporting.figures import check_target
    from research.reporting.plots.arrangement import PlotOptions
    from research.reporting.plots.draw import draw_runs

    runs = select_runs(words)
    target = check_target("--out", out) if out else None
    draw = partial(draw_runs, options=PlotOptions(**options))
    drawing = without_damaged_tables(draw, runs)
    files = drawing.save(target or common_folder(runs) / drawing.name)
    printed = console()
    for note in drawing.notes:
        printed.print(note, markup=False, soft_wrap=True)
    endings = " ".join(file.suffix for file in files[1:])
    printed.print(f"figure: {escape(str(files[0]))} {endings}".rstrip(), soft_wrap=True)
    return 0


def common_folder(runs: Sequence[Run]) -> Path:
    """The folder that all runs are in: that of their sweep, or outputs/."""
    parents = [os.path.abspath(run.directory.parent) for run in runs]
    folder = Path(os.path.commonpath(parents))
    root = ROOT.absolute()
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(root) else ROOT
