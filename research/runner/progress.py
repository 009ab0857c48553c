"""What a user sees while runs train: a bar with the time left on a terminal, plain lines in a pipe."""

import sys
import time
from types import TracebackType

SECONDS_A_LINE = 10.0  # between lines in a pipe
EARLY = 0.02  # of the whole: before, what has passed is compiling and says nothing of what is left


class Progress:
    """Shows ``runs`` runs, one after the other or several together, on standard error."""

    def __init__(self, runs: int = 1):
        # run: the last of those that are on, counted from 1
        self.runs = runs
        self.run = 0
        self.together = 1
        self.name = ""
        self.skipped = 0.0  # runs, as shares, that earlier attempts did
        self.bar = None
        self.started = self.last = time.monotonic()

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:3.0f}%"),
            )
            times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
            self.bar = Bar(*columns, *times, console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task("starting", total=self.runs)
            self.bar.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def begin(self, name: str, together: int = 1) -> None:
        """The next run starts, or the next ``together`` runs at once."""
        self.run = self.run + together
        self.together = together
        self.name = name
        if self.bar:
            description = f"{self._position()}{name}: compiling"
            self.bar.update(
                self.task, total=self.runs, description=description, completed=self._done(0)
            )

    def take_back(self) -> None:
        """What was begun last begins once more, in other parts."""
        self.run -= self.together

    def go_on(self, done: int, total: int) -> None:
        """What was begun last goes on behind ``done`` of ``total`` steps."""
        self.skipped += self.together * done / total
        print(
            f"{self._position()}{self.name}: goes on from step {done}/{total}",
            file=sys.stderr,
            flush=True,
        )

    def step(self, done: int, total: int, **values: float) -> None:
        """``done`` of ``total`` steps of what is on; the values of several runs are their means."""
        text = f"{self._position()}{self.name}: step {done}/{total}"
        numbers = "  ".join(
            f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items()
        )
        if self.bar:
            self.bar.update(
                self.task, description=f"{text}  {numbers}", completed=self._done(done / total)
            )
        elif done == total or time.monotonic() - self.last > SECONDS_A_LINE:
            self.last = time.monotonic()
            print(
                f"{text}  {numbers}{self._left(self._done(done / total))}",
                file=sys.stderr,
                flush=True,
            )

    def _done(self, fraction: float) -> float:
        """Runs that are done, with the share of those that are on."""
        return self.run - self.together * (1 - fraction)

    def _position(self) -> str:
        first = f"{self.run - self.together + 1}-" if self.together > 1 else ""
        return f"[{first}{self.run}/{self.runs}] " if self.runs > 1 else ""

    def _left(self, done: float) -> str:
        now = done - self.skipped
        if done >= self.runs or now < EARLY * self.runs:
            return ""
        return f"  about {(time.monotonic() - self.started) * (self.runs - done) / now:.0f} s left"


class Silent(Progress):
    """Shows nothing: another process does."""

    def begin(self, name: str, together: int = 1) -> None:
        """Says nothing."""

    def go_on(self, done: int, total: int) -> None:
        """Says nothing."""

    def step(self, done: int, total: int, **values: float) -> None:
        """Says nothing."""
