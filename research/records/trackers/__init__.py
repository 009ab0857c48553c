"""Trackers mirror a run's record in dashboards.

They run on a separate thread, so that logging never blocks a training step. A tracker that fails is
reported once and then ignored: the local record is complete without it, and the dashboard can be
completed from it later.
"""

import functools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from research.records.runs import Columns, Diagnostics, JsonObject
from research.records.trackers.background import BackgroundThread, Unresponsive
from research.records.trackers.gathered_rows import GatheredRows, RowBatch

# How far a dashboard is, as ``mirrored`` of ``run.json`` says it.
PENDING = "pending"  # it may lack rows or pictures of the run
LOCAL = "local"  # what lies on this machine is complete
UPLOADED = "uploaded"  # the server has everything


class MirrorError(Exception):
    """A dashboard has not received what it should; ``str`` says what is missing or wrong."""


class ServiceUnresponsive(MirrorError):
    """What brings the run to the dashboard has stopped working."""


class Tracker(Protocol):
    """Mirrors one run.

    Attributes:
        name: its key in ``mirrored`` of ``run.json``.
        remedy: how the user completes the dashboard after the tracker has failed.
        pending: what ``mirrored`` says of the dashboard until the run is complete there.
        patience: the seconds that a call may take before the tracker counts as failed.
    """

    name: str
    remedy: str
    pending: JsonObject
    patience: float

    def start(self) -> JsonObject:
        """Opens the run in the dashboard; returns entries for ``run.json``."""
        ...

    def log(
        self,
        metrics: Columns,
        profiles: Columns,
        diagnostics: Diagnostics,
    ) -> None:
        """Logs recorded rows.

        Args:
            metrics: numbers by name [S], with their ``step`` [S].
            profiles: gauges by name [S', N], with their ``step`` [S']; may be empty.
            diagnostics: what was measured on an interval, by step.
        """
        ...

    def finish(self, info: JsonObject) -> JsonObject:
        """Closes the run and returns how far the dashboard is, for ``mirrored`` of ``run.json``.

        ``info`` is the final ``run.json``.
        """
        ...

    def wants_stop(self, *, is_interrupted: bool) -> bool:
        """Whether the dashboard has asked for the end of the run. Any thread may ask.

        Args:
            is_interrupted: whether a signal has ended the training, which may come from the
                dashboard.
        """
        ...


class TrackerReports:
    """What the trackers of one command have reported, and which of them works now.

    The first failure of each tracker is printed. The runs of a group have trackers of one name,
    and one cause often raises different errors in them.

    Attributes:
        errors: what the trackers raised.
        server_failed: whether a server has failed, so that later runs do not wait for it.
        working: held while a tracker works that waits for nobody. Python runs one thread at a time,
            and dozens that want to run wake each other up all the time.
    """

    def __init__(self):
        self.errors: list[Exception] = []
        self.server_failed = False
        self.working = threading.Lock()
        self._printed: set[str] = set()
        self._lock = threading.Lock()

    def print_once(self, name: str, message: str) -> None:
        """Prints a line, unless a tracker of the same name has printed one."""
        with self._lock:
            if name in self._printed:
                return
            self._printed.add(name)
            print(f"fathom: {message}", file=sys.stderr)

    def add_error(self, tracker: Tracker, error: Exception) -> None:
        """Reports that a tracker has failed."""
        self.errors.append(error)
        self.server_failed |= isinstance(error, MirrorError)
        message = (
            f"tracker={tracker.name} failed ({describe_error(error)}); "
            f"the local record continues, and {tracker.remedy}"
        )
        self.print_once(tracker.name, message)


def describe_error(error: Exception) -> str:
    """An error in one line; one that a tracker raises itself needs no name."""
    lines = str(error).strip().splitlines()
    kind = type(error).__name__
    if not lines:
        return kind
    if kind == "ValidationError" and len(lines) > 2:  # of W&B's settings, from its environment
        problem, _, _ = lines[2].strip().partition(" [type=")
        setting = lines[1].strip()
        variable = f"WANDB_{setting.upper()}"
        name = variable if variable in os.environ else f"W&B's setting {setting}"
        return f"{name}: {problem}"
    return lines[0] if isinstance(error, MirrorError) else f"{kind}: {lines[0]}"


class BackgroundTrackers:
    """Calls trackers on one thread, in order. Only ``start_info`` and ``wait`` wait for it."""

    def __init__(
        self,
        trackers: list[Tracker],
        reports: TrackerReports | None = None,
        *,
        gather_seconds: float = 0.0,
    ):
        """Prepares the thread without starting the trackers.

        Args:
            trackers: the trackers of one run.
            reports: where failures are reported; by default an object of this run alone.
            gather_seconds: how long rows wait for more rows, because many rows in one call cost
                less than in several; 0 if they do not wait.
        """
        self._working = list(trackers)
        self._num_trackers = len(trackers)
        self._reports = reports or TrackerReports()
        self._thread = BackgroundThread("tracker")
        self._starts: list[tuple[Tracker, Future]] = []
        self._finishes: list[tuple[Tracker, Future]] = []
        self._gather_seconds = gather_seconds
        self._gathered = GatheredRows()
        self._is_ending = threading.Event()

    def start(self) -> None:
        """Opens every tracker's run without waiting."""
        for tracker in list(self._working):
            start = self._submit(tracker, tracker.start)
            self._starts.append((tracker, start))

    def log(
        self,
        metrics: Columns,
        profiles: Columns,
        diagnostics: Diagnostics,
    ) -> None:
        """Logs recorded rows without waiting; see ``Tracker.log``.

        Args:
            metrics: numbers by name [S], with their ``step`` [S].
            profiles: gauges by name [S', N], with their ``step`` [S'].
            diagnostics: what was measured on an interval, by step.
        """
        if not self._working:
            return
        batch = RowBatch(metrics, profiles, diagnostics)
        if not self._gather_seconds:
            self._thread.submit(functools.partial(self._log_batch, batch))
        elif self._gathered.add(batch):
            self._thread.submit(self._log_gathered)

    def _log_gathered(self) -> None:
        """Waits for more rows and logs all of them."""
        self._is_ending.wait(self._gather_seconds)
        try:
            batches = self._gathered.take()
        except Exception as error:  # rows that cannot be joined would be lost in silence
            for tracker in list(self._working):
                self._give_up(tracker, error)
            return
        for batch in batches:
            self._log_batch(batch)

    def _log_batch(self, batch: RowBatch) -> None:
        for tracker in list(self._working):
            log = functools.partial(tracker.log, batch.metrics, batch.profiles, batch.diagnostics)
            self._call_unless_failed(tracker, log)

    def start_info(self) -> JsonObject:
        """Waits until every tracker has started; returns their entries for ``run.json``."""
        info = {}
        for tracker, start in self._starts:
            info |= self._wait(tracker, start) or {}
        return info

    @property
    def all_working(self) -> bool:
        """Whether no tracker has failed so far."""
        return len(self._working) == self._num_trackers

    def find_stop(self, *, is_interrupted: bool = False) -> str | None:
        """The name of a tracker whose dashboard has asked for the end of the run.

        Args:
            is_interrupted: whether a signal has ended the training.
        """
        for tracker in list(self._working):
            if self._starts and tracker.wants_stop(is_interrupted=is_interrupted):
                return tracker.name
        return None

    def finish(self, info: JsonObject) -> None:
        """Closes every tracker's run, if it was started, without waiting."""
        self._is_ending.set()
        if self._starts:
            for tracker in list(self._working):
                finish = functools.partial(tracker.finish, info)
                self._finishes.append((tracker, self._submit(tracker, finish)))
        self._thread.stop()

    def wait(self) -> JsonObject:
        """Waits until all is written; returns what each tracker says of the dashboard, by name."""
        mirrored = {}
        for tracker, finish in self._finishes:
            state = self._wait(tracker, finish)
            if state:
                mirrored[tracker.name] = state
        return mirrored

    def _wait(self, tracker: Tracker, future: Future) -> Any:
        """The result of a call; None where the tracker has failed or does not return."""
        if tracker not in self._working:
            return future.result() if future.done() else None
        try:
            return self._thread.wait(future, tracker.patience)
        except Unresponsive:
            self._give_up(tracker, ServiceUnresponsive("it does not answer any more"))
            return None

    def _give_up(self, tracker: Tracker, error: Exception) -> None:
        try:
            self._working.remove(tracker)
        except ValueError:  # it was given up before
            return
        self._reports.add_error(tracker, error)

    def _submit(self, tracker: Tracker, call: Callable[[], Any]) -> Future:
        return self._thread.submit(functools.partial(self._call_unless_failed, tracker, call))

    def _call_unless_failed(self, tracker: Tracker, call: Callable[[], Any]) -> Any:
        if tracker not in self._working:
            return None
        try:
            return call()
        except Exception as error:  # the failure of a dashboard must never end a run
            self._give_up(tracker, error)
            return None
