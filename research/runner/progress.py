"""The progress of runs: a bar in a terminal or a notebook, plain lines in a pipe."""

import contextlib
import sys
import time
from types import TracebackType

from research.runner.bars import Bar, make_bar

SECONDS_PER_LINE = 10.0  # between two lines in a pipe
# An estimate of the time that is left follows from at least this much training.
MIN_SECONDS_FOR_ESTIMATE = 2.0
MIN_FRACTION_FOR_ESTIMATE = 0.02
LONG_SECONDS = 60.0  # a wait that a suggestion may shorten


class TrainingTime:
    """The time that training took so far, without the time to compile, and what was trained in it.

    The unit of work is one run from its first to its last step.
    """

    def __init__(self):
        self._earlier_seconds = 0.0  # of the groups before the present one
        self._earlier_work = 0.0
        self._first: tuple[float, float] | None = None  # time and work at the group's first report
        self._seconds = 0.0
        self._work = 0.0

    def start_group(self) -> None:
        """Leaves out the time until the first report: the next group is compiled in it."""
        self._earlier_seconds += self._seconds
        self._earlier_work += self._work
        self._first = None
        self._seconds = 0.0
        self._work = 0.0

    def report(self, now: float, work: float) -> None:
        """Notes that the present group has done ``work`` at the time ``now``, in seconds."""
        if self._first is None:
            self._first = (now, work)
        first_time, first_work = self._first
        self._seconds = now - first_time
        self._work = work - first_work

    def seconds_left(self, work_left: float) -> float | None:
        """How long the work that is left will train; None until enough was trained to tell."""
        seconds = self._earlier_seconds + self._seconds
        work = self._earlier_work + self._work
        if seconds < MIN_SECONDS_FOR_ESTIMATE:
            return None
        if work < MIN_FRACTION_FOR_ESTIMATE * (work + work_left):
            return None
        return seconds * work_left / work


class Progress:
    """Shows the progress of ``num_runs`` runs, which are trained one by one or in groups."""

    def __init__(self, num_runs: int = 1):
        self.num_runs = num_runs
        self.num_started = 0
        self.group_size = 1
        self.name = ""
        self.bar: Bar | None = None
        self.training_time = TrainingTime()
        self.last_line = time.monotonic()
        self._suggestion = ""

    def __enter__(self) -> "Progress":
        self.bar = make_bar()
        return self

    def __exit__(
        self,
        kind: type | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()

    def start_runs(self, name: str, num_runs: int = 1) -> None:
        """Shows that the next ``num_runs`` runs start, as one group."""
        self.num_started += num_runs
        self.group_size = num_runs
        self.name = name
        self.training_time.start_group()
        if self.bar:
            text = f"{self._format_position()}{name}: compiling"
            self.bar.show(self._completed_runs(0), self.num_runs, text)

    def undo_start(self) -> None:
        """Forgets the last ``start_runs``: the group will be split and start once more."""
        self.num_started -= self.group_size

    def resume(self, step: int, total: int) -> None:
        """Shows that the group resumes at ``step`` of ``total`` steps."""
        self._print(f"{self._format_position()}{self.name}: resumes at step {step}/{total}")

    def suggest(self, line: str) -> None:
        """Shows how to shorten the wait, as soon as it is known to be long."""
        self._suggestion = line

    def report_verdict(self, cpu_seconds: float) -> None:
        """Receives how long a verdict on a running run took, in CPU seconds; shows nothing."""

    def step(
        self,
        done: int,
        total: int,
        *,
        note: str = "",
        **values: float,
    ) -> None:
        """Shows that the group has done ``done`` of ``total`` steps.

        Args:
            done: steps that all runs of the group have done.
            total: steps of each run.
            note: what was found so far.
            values: numbers to show, as means over the group.
        """
        numbers = []
        for name, value in values.items():
            numbers.append(f"{name.replace('_', ' ')} {value:.4g}")
        position = f"{self._format_position()}{self.name}: step {done}/{total}"
        if note:
            numbers.append(note)
        text = f"{position}  {'  '.join(numbers)}"
        completed = self._completed_runs(done / total)
        now = time.monotonic()
        self.training_time.report(now, self.group_size * done / total)
        seconds = self._seconds_left(completed)
        if seconds is not None and seconds > LONG_SECONDS and self._suggestion:
            self._print(self._suggestion)
            self._suggestion = ""
        time_left = "" if seconds is None else f"about {seconds:.0f} s left"
        if self.bar:
            self.bar.show(completed, self.num_runs, text, time_left)
        elif done == total or now - self.last_line > SECONDS_PER_LINE:
            self.last_line = now
            self._print(f"{text}  {time_left}".rstrip())

    def _print(self, line: str) -> None:
        if self.bar:
            self.bar.print(line)
            return
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

    def _seconds_left(self, completed: float) -> float | None:
        """The seconds left, without the time to compile; None where nothing is, or until known."""
        if completed >= self.num_runs:
            return None
        return self.training_time.seconds_left(self.num_runs - completed)


class Silent(Progress):
    """Shows nothing, where another process shows the progress."""

    def start_runs(self, name: str, num_runs: int = 1) -> None:
        """Does nothing."""

    def resume(self, step: int, total: int) -> None:
        """Does nothing."""

    def suggest(self, line: str) -> None:
        """Does nothing."""

    def step(
        self,
        done: int,
        total: int,
        *,
        note: str = "",
        **values: float,
    ) -> None:
        """Does nothing."""
