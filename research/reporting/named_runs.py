"""The runs that the words of a command name: by folders, by filters, or by both."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from research.records.run_info import DamagedRecord
from research.records.runs import Run, find_runs
from research.reporting.selection import ROOT, describe_no_runs, leave_out_damaged, match_runs


def runs_in_folders(
    words: Sequence[str],
    readable: Callable[[Iterable[Run]], list[Run]] = leave_out_damaged,
) -> list[Run]:
    """The runs under outputs/ that the words name.

    A word that is a folder with runs, such as ``outputs/depth``, ``depth`` or the folder of a run,
    stands for these runs; the other words are filters as for ``fathom runs``. Without a folder, the
    filters select from all runs.

    Args:
        words: folders and filters.
        readable: leaves out the runs that cannot be read.

    Raises:
        ValueError: there are no runs, none matches, or a filter cannot be understood.
    """
    named: dict[Path, Run] = {}
    filters = []
    for word in words:
        runs = _runs_below(word)
        if not runs:
            filters.append(word)
        for run in runs:
            named[run.directory.absolute()] = run
    found = readable(named.values() if named else find_runs(ROOT))
    if not found:
        raise ValueError(describe_no_runs(ROOT))
    return match_runs(found, filters)


def leave_out_damaged_silently(runs: Iterable[Run]) -> list[Run]:
    """The runs whose record can be read."""
    readable = []
    for run in runs:
        try:
            run.check()
        except DamagedRecord:
            continue  # it may just be starting
        readable.append(run)
    return readable


def _runs_below(word: str) -> list[Run]:
    """The runs in the folder that a word names; none where it is no folder."""
    if not word.strip("./"):
        return []
    for folder in (Path(word), ROOT / word):
        if folder.is_dir():
            runs = find_runs(folder)
            if runs:
                return runs
    return []


def common_folder(runs: Sequence[Run]) -> Path:
    """The folder of a run, or the deepest folder that holds all of several runs."""
    if len(runs) == 1:
        return runs[0].directory
    folders = [run.directory.parts for run in runs]
    common = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return Path(*common)
