"""The progress of runs on standard error: a bar in a terminal, plain lines in a pipe."""

import sys
import time
from types import TracebackType

SECONDS_PER_LINE = 10.0  # between two lines in a pipe
# Below this fraction of all runs, most of the time went into compiling: no estimate is shown.
MIN_FRACTION_FOR_ESTIMATE = 0.02


class Progress:
    """Shows the progress of ``runs`` runs, which are trained one after the other or in groups."""

    def __init__(self, runs: int = 1):
        self.runs = runs
        self.run = 0  # the number of the last run that has started, from 1
        self.group_size = 1
        self.name = ""
        self.skipped = 0.0  # how many runs, in fractions, earlier attempts have trained
        self.bar = None
        self.started = time.monotonic()
        self.last_line = self.started

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            self._show_bar()
        return self

    def __exit__(
        self,
        kind: type | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()

    def _show_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.bar.add_task("starting", total=self.runs)
        self.bar.start()

    def start_runs(self, name: str, num_runs: int = 1) -> None:
        """Shows that the next ``num_runs`` runs start, as one group."""
        self.run += num_runs
        self.group_size = num_runs
        self.name = name
        if self.bar:
            self.bar.update(
                self.task,
                total=self.runs,
                description=f"{self._position()}{name}: compiling",
                completed=self._completed_runs(0),
            )

    def undo_start(self) -> None:
        """Forgets the last ``start_runs``: the group will be split and start once more."""
        self.run -= self.group_size

    def resume(self, step: int, total: int) -> None:
        """Shows that the group resumes at ``step`` of ``total`` steps."""
        self.skipped += self.group_size * step / total
        self._print(f"{self._position()}{self.name}: resumes at step {step}/{total}")

    def step(
        self,
        done: int,
        total: int,
        **values: float,
    ) -> None:
        """Shows that the group has done ``done`` of ``total`` steps.

        Args:
            done: steps that all runs of the group have done.
            total: steps of each run.
            values: numbers to show, as means over the group.
        """
        numbers = []
        for name, value in values.items():
            numbers.append(f"{name.replace('_', ' ')} {value:.4g}")
        position = f"{self._position()}{self.name}: step {done}/{total}"
        text = f"{position}  {'  '.join(numbers)}"
        completed = self._completed_runs(done / total)
        now = time.monotonic()
        if self.bar:
            self.bar.update(self.task, description=text, completed=completed)
        elif done == total or now - self.last_line > SECONDS_PER_LINE:
            self.last_line = now
            self._print(f"{text}{self._time_left(completed)}")

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def _completed_runs(self, fraction: float) -> float:
        """Runs that are done, plus the given fraction of the present group."""
        return self.run - self.group_size * (1 - fraction)

    def _position(self) -> str:
        if self.runs <= 1:
            return ""
        first = self.run - self.group_size + 1
        if self.group_size == 1:
            return f"[{self.run}/{self.runs}] "
        return f"[{first}-{self.run}/{self.runs}] "

    def _time_left(self, completed: float) -> str:
        trained_here = completed - self.skipped
        if completed >= self.runs or trained_here < MIN_FRACTION_FOR_ESTIMATE * self.runs:
            return ""
        elapsed = time.monotonic() - self.started
        seconds = elapsed * (self.runs - completed) / trained_here
        return f"  about {seconds:.0f} s left"


class Silent(Progress):
    """Shows nothing, where another process shows the progress."""

    def start_runs(self, name: str, num_runs: int = 1) -> None:
        """Does nothing."""

    def resume(self, step: int, total: int) -> None:
        """Does nothing."""

    def step(
        self,
        done: int,
        total: int,
        **values: float,
    ) -> None:
        """Does nothing."""
