"""Recorded runs in Python: ``fathom.load``, and the trained network of a run."""

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from research.config.arguments import check_texts, short_repr
from research.records.runs import Run
from research.reporting.collection import Runs, load_runs
from research.reporting.json_output import run_object
from research.reporting.selection import ROOT, find_setting
from research.reporting.tables import format_number

if TYPE_CHECKING:
    from research.interface.model import TrainedModel
    from research.reporting.comparison import Comparison
    from research.reporting.plots.arrangement import Drawing


class RecordedRun(Run):
    """One recorded run, as ``fathom.load`` and ``fathom.train`` return it."""

    def __getitem__(self, path: str) -> Any:
        """The setting at a path, or with a name that filters know, such as ``depth``.

        Raises:
            KeyError: there is no such setting, or there are several; the message has the nearest.
        """
        check_texts("settings", [path], 'run["model.depth"]')
        try:
            return super().__getitem__(path)
        except KeyError:
            pass
        try:
            full_path = find_setting(path, [self])
        except ValueError as error:
            raise KeyError(str(error)) from None
        return super().__getitem__(full_path)

    def model(self) -> "TrainedModel":
        """The trained network, from the checkpoint that the run kept (``checkpoint.keep=true``).

        Raises:
            ValueError: the run kept no checkpoint, or it cannot be read.
        """
        from research.interface.model import load_model

        return load_model(self.directory)

    def plot(self, kind: str = "", **options: Any) -> "Drawing":
        """Draws a figure of this run; see ``Runs.plot``."""
        return Runs([self]).plot(kind, **options)

    def compare(self, other: "Run | Runs") -> "Comparison":
        """What differs between this run and another one; see ``fathom compare``."""
        return Runs([self]).compare(other)

    def __repr__(self) -> str:
        return f"<run {self.directory} ({self.status})>"

    def _repr_html_(self) -> str:
        """The run for a notebook; what comes from its record is escaped."""
        found = run_object(self)
        lines = [f"<p><b>{html.escape(found['run'])}</b> {html.escape(found['status'])}</p>"]
        if found["sentence"]:
            lines.append(f"<p>{html.escape(found['sentence'])}</p>")
        cells = []
        for name, value in found["numbers"].items():
            if value is not None:
                number = format_number(value, 4)
                cells.append(f"<tr><td>{html.escape(name)}</td><td>{number}</td></tr>")
        lines.append(f"<table>{''.join(cells)}</table>")
        return "".join(lines)


def load(root: str | Path = "outputs", *filters: str) -> Runs:
    """The recorded runs below a folder.

    Args:
        root: the folder: ``outputs``, one sweep in it, or one run.
        *filters: conditions that every run must match, such as ``skip=none``, ``depth>30`` or
            ``eval_accuracy>0.9``; see ``fathom runs``.

    Returns:
        The runs, whose record can be read, in the order of their paths.

    Raises:
        TypeError: the folder or a filter is of another type.
        ValueError: there are no runs, none matches, or a filter cannot be understood.

    Example:
        >>> import fathom
        >>> runs = fathom.load("outputs/depth", "skip=none")  # doctest: +SKIP
        >>> runs.summary("eval_accuracy")  # doctest: +SKIP
    """
    if not isinstance(root, str | Path):
        raise TypeError(f"root must be a folder such as 'outputs', got {short_repr(root)}")
    check_texts("filters", filters, 'fathom.load("outputs", "skip=none", "depth>30")')
    if re.search("[=<>]", str(root)) and not Path(root).exists():
        raise ValueError(
            f"root must be a folder, got {root}: filters follow it, as in "
            f'fathom.load("outputs", "{root}")'
        )
    folder = Path(root).expanduser()
    if folder != ROOT and not folder.is_dir():
        state = "which is a file" if folder.exists() else "which does not exist"
        raise ValueError(f"root must be a folder with runs, got {root}, {state}")
    # Absolute, because each file is read when it is needed, possibly from another directory.
    return load_runs(folder.absolute(), filters, RecordedRun)


def runs_in(directories: Sequence[Path]) -> Runs:
    """The runs in these directories, in this order; directories without a record are left out."""
    found = []
    for directory in directories:
        if (directory / "run.json").exists():
            found.append(RecordedRun(directory))
    return Runs(found)
