"""Bars that show the progress of runs: in a terminal, and below the cell of a notebook."""

import html
import sys
import time
from typing import Any, Protocol

MIN_WIDTH_OF_TEXT = 8  # where there is less, columns are left out
WIDTH_OF_PERCENTAGE = 4
WIDTH_OF_TIME = 8
MIN_WIDTH_OF_BAR = 10
MAX_WIDTH_OF_BAR = 40
SECONDS_PER_UPDATE = 0.2  # of a notebook, which redraws the bar each time


class Bar(Protocol):
    """Shows how much is done, in runs."""

    def show(
        self,
        completed: float,
        total: int,
        text: str,
        time_left: str = "",
    ) -> None:
        """Shows the bar.

        Args:
            completed: runs that are done, with the fraction of those that are trained now.
            total: all runs.
            text: what is trained now, and its latest numbers.
            time_left: how long it will take in words; empty where it is not known.
        """
        ...

    def print(self, line: str) -> None:
        """Shows a line that stays."""
        ...

    def stop(self) -> None:
        """Ends the bar."""
        ...


def make_bar() -> Bar | None:
    """The bar that suits the host of this process; None where lines are shown, as in a pipe."""
    if sys.stderr.isatty():
        return TerminalBar()
    if is_notebook():
        return NotebookBar()
    return None


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    module: Any = sys.modules.get("IPython")
    shell = module.get_ipython() if module else None
    return getattr(shell, "kernel", None) is not None


class TerminalBar:
    """A bar in the last line of a terminal, which disappears at the end.

    In a narrow terminal the text is cut, and columns for which there is no room are left out.
    """

    def __init__(self):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._text = TextColumn("{task.description}", markup=False)
        self._bar = BarColumn()
        self._percentage = TextColumn("{task.percentage:3.0f}%")
        self._time = TimeElapsedColumn()
        self._time_left = TextColumn("{task.fields[time_left]}", markup=False)
        self._progress = Progress(console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("", time_left="")
        self._fit_columns("starting", "")
        self._progress.start()

    def show(
        self,
        completed: float,
        total: int,
        text: str,
        time_left: str = "",
    ) -> None:
        """Shows the bar; see ``Bar``."""
        self._fit_columns(text, time_left)
        self._progress.update(
            self._task,
            completed=completed,
            total=total,
            time_left=time_left,
        )

    def _fit_columns(self, text: str, time_left: str) -> None:
        """Sets the text and the columns for which the terminal has room, and their widths."""
        room = self._progress.console.width - WIDTH_OF_PERCENTAGE - 1  # a blank between columns
        shown: set[Any] = {self._text, self._percentage}
        for column, width in (
            (self._time_left, len(time_left)),
            (self._time, WIDTH_OF_TIME),
            (self._bar, MIN_WIDTH_OF_BAR),
        ):
            if width and room - width - 1 >= MIN_WIDTH_OF_TEXT:
                shown.add(column)
                room -= width + 1
        is_cut = len(text) > room
        spare = 0 if is_cut else room - len(text)
        self._bar.bar_width = min(MIN_WIDTH_OF_BAR + spare, MAX_WIDTH_OF_BAR)
        columns = (self._text, self._bar, self._percentage, self._time, self._time_left)
        self._progress.columns = tuple(column for column in columns if column in shown)
        self._progress.update(
            self._task,
            description=f"{text[: room - 1]}…" if is_cut else text,
        )

    def print(self, line: str) -> None:
        """Shows a line above the bar."""
        self._progress.console.print(line, markup=False, highlight=False)

    def stop(self) -> None:
        """Takes the bar away."""
        self._progress.stop()


class NotebookBar:
    """A bar below the cell of a notebook, made of HTML; it disappears at the end."""

    def __init__(self):
        from IPython.display import HTML, display  # type: ignore[import-not-found]

        self._html = HTML
        self._handle: Any = display(HTML("starting"), display_id=True)
        self._last_update = -SECONDS_PER_UPDATE

    def show(
        self,
        completed: float,
        total: int,
        text: str,
        time_left: str = "",
    ) -> None:
        """Shows the bar; see ``Bar``."""
        now = time.monotonic()
        if now - self._last_update < SECONDS_PER_UPDATE:
            return
        self._last_update = now
        percentage = f"{100 * completed / total:.0f} %"
        words = "  ".join(part for part in (percentage, time_left, text) if part)
        bar = f'<progress max="{total}" value="{completed:.3f}"></progress>'
        self._handle.update(self._html(f"{bar} <code>{html.escape(words)}</code>"))

    def print(self, line: str) -> None:
        """Shows a line below the bar."""
        print(line, file=sys.stderr)

    def stop(self) -> None:
        """Takes the bar away; the value of the cell follows."""
        self._handle.update(self._html(""))
