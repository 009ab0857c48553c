"""``fathom report``: an HTML file about recorded runs."""

import errno
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from research.config.wording import pluralize
from research.records.runs import METRICS, PROFILES
from research.reporting.named_runs import common_folder, runs_in_folders
from research.reporting.report import write_report
from research.reporting.selection import ROOT, report_damaged
from research.reporting.tables import console

BYTES_OF_A_MEGABYTE = 1e6


def main(words: Sequence[str], out: str = "") -> int:
    """Writes the report of the runs that the words name; returns the exit code.

    Args:
        words: filters as for ``fathom runs``, and folders of runs.
        out: the file; by default ``report.html`` in the folder that all the runs share.

    Raises:
        ValueError: no run fits the words, or the file cannot be an HTML file, or not be written.
    """
    path = Path(out) if out else None
    if path and path.suffix not in (".html", ".htm"):
        raise ValueError(f"--out must be an HTML file such as report.html, got {out}")
    if path and path.is_dir():
        raise ValueError(f"--out must be a file, but {out} is a folder: add /report.html")
    runs = runs_in_folders(words)
    folder = common_folder(runs)
    path = path or folder / "report.html"
    title = " ".join(words) or str(ROOT)
    if len(runs) == 1:
        title = f"{folder.absolute().parent.name}/{folder.name}"
    try:
        write_report(runs, path, title=title, root=ROOT)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise
        raise ValueError(
            f"{path} cannot be written: {error.strerror}; choose another file with --out"
        ) from error
    for table in (METRICS, PROFILES):
        report_damaged(runs, table)
    megabytes = path.stat().st_size / BYTES_OF_A_MEGABYTE
    console().print(
        f"report: {escape(str(path))}   {pluralize(len(runs), 'run')}, {megabytes:.1f} MB",
        soft_wrap=True,
    )
    return 0
