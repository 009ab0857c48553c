"""The progress of runs on standard error: a bar in a terminal, plain lines in a pipe."""

import contextlib
import sys
import time
from types import TracebackType

SECONDS_PER_LINE = 10.0  # between two lines in a pipe
# Below this fraction of all runs, most of the time went into compiling: no estimate is shown.
MIN_FRACTION_FOR_ESTIMATE = 0.02


class Progress:
    """Shows the progress of ``num_runs`` runs, which are trained one by one or in groups."""

    def __init__(self, num_runs: int = 1):
        self.num_runs = num_runs
        self.num_started = 0
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
        self.task = self.bar.add_task("starting", total=self.num_runs)
        self.bar.start()

    def start_runs(self, name: str, num_runs: int = 1) -> None:
        """Shows that the next ``num_runs`` runs start, as one group."""
        self.num_started += num_runs
        self.group_size = num_runs
        self.name = name
        if self.bar:
            self.bar.update(
                self.task,
                total=self.num_runs,
                description=f"{self._format_position()}{name}: compiling",
                completed=self._completed_runs(0),
            )

    def undo_start(self) -> None:
        """Forgets the last ``start_runs``: the group will be split and start once more."""
        self.num_started -= self.group_size

    def resume(self, step: int, total: int) -> None:
        """Shows that the group resumes at ``step`` of ``total`` steps."""
        self.skipped += self.group_size * step / total
        self._print(f"{self._format_position()}{self.name}: resumes at step {step}/{total}")

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
        position = f"{self._format_position()}{self.name}: step {done}/{total}"
        text = f"{position}  {'  '.join(numbers)}"
        completed = self._completed_runs(done / total)
        now = time.monotonic()
        if self.bar:
            self.bar.update(self.task, description=text, completed=completed)
        elif done == total or now - self.last_line > SECONDS_PER_LINE:
            self.last_line = now
            self._print(f"{text}{self._time_left(completed)}")

    def _print(self, line: str) -> None:
        with contextlib.suppress(OSError):  # a full disk behind a log must not end the run
            print(line, file=sys.stderr, flush=True)

    def _completed_runs(self, fraction: float) -> float:
        """Runs that are done, plus the given fraction of the present group."""
        return self.num_started - self.group_size * (1 - fraction)

    def _format_position(self) -> str:
        """``[3/8] `` for one run, ``[1-4/8] `` for a group, empty if there is only one run."""
        if self.num_runs <= 1:
            return ""
        first = self.num_started - self.group_size + 1
        if self.group_size == 1:
            return f"[{self.num_started}/{self.num_runs}] "
        return f"[{first}-{self.num_started}/{self.num_runs}] "

    def _time_left(self, completed: float) -> str:
        trained_here = completed - self.skipped
        if completed >= self.num_runs or trained_here < MIN_FRACTION_FOR_ESTIMATE * self.num_runs:
            return ""
        elapsed = time.monotonic() - self.started
        seconds = elapsed * (self.num_runs - completed) / trained_here
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
