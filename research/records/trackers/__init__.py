"""Trackers mirror a run's record in dashboards.

They run on a separate thread, so that logging never blocks a training step. A tracker that fails is
reported once and then ignored: the local record is complete without it.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from research.records.runs import Columns, JsonObject

Diagnostics = Mapping[int, Columns]  # what is measured on an interval, by step, without a step axis


class Tracker(Protocol):
    """Mirrors one run."""

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

    def finish(self, info: JsonObject) -> None:
        """Closes the run. ``info`` is the final ``run.json``."""
        ...


class BackgroundTrackers:
    """Calls trackers on one thread, in order. Only ``start_info`` and ``finish`` wait for it."""

    def __init__(self, trackers: list[Tracker]):
        self._working = list(trackers)
        self._num_trackers = len(trackers)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracker")
        self._starts: list[Future] = []

    def start(self) -> None:
        """Opens every tracker's run without waiting."""
        for tracker in list(self._working):
            start = self._submit(tracker, tracker.start)
            self._starts.append(start)

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
        for tracker in list(self._working):
            log = functools.partial(tracker.log, metrics, profiles, diagnostics)
            self._submit(tracker, log)

    def start_info(self) -> JsonObject:
        """Waits until every tracker has started; returns their entries for ``run.json``."""
        info = {}
        for start in self._starts:
            info |= start.result() or {}
        return info

    @property
    def all_working(self) -> bool:
        """Whether no tracker has failed so far."""
        return len(self._working) == self._num_trackers

    def finish(self, info: JsonObject) -> None:
        """Closes every tracker's run, if it was started, and waits until all is written."""
        if self._starts:
            for tracker in list(self._working):
                finish = functools.partial(tracker.finish, info)
                self._submit(tracker, finish)
        self._thread.shutdown(wait=True)

    def _submit(self, tracker: Tracker, call: Callable[[], Any]) -> Future:
        return self._thread.submit(self._call_unless_failed, tracker, call)

    def _call_unless_failed(self, tracker: Tracker, call: Callable[[], Any]) -> Any:
        if tracker not in self._working:
            return None
        try:
            return call()
        except Exception as error:  # the failure of a dashboard must never end a run
            self._working.remove(tracker)
            reason = f"{type(error).__name__}: {error}"
            print(
                f"fathom: {type(tracker).__name__} failed and is no longer used ({reason}); "
                "the local record continues",
                file=sys.stderr,
            )
            return None
