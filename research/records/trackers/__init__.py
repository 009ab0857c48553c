"""Mirrors of the record in dashboards, each behind the small protocol ``Tracker``.

Trackers run on a thread of their own: logging never blocks a step, and a tracker that fails is reported once and
left out, since the local record is complete without it.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

Columns = dict[str, np.ndarray]
Beside = Mapping[
    int, Columns
]  # by step: what was measured in front of it, without an axis of steps


class Tracker(Protocol):
    """Somewhere to mirror one run."""

    def start(self) -> dict[str, Any]:
        """Opens the run there; returns what ``run.json`` should say of it."""
        ...

    def log(self, metrics: Columns, profiles: Columns, beside: Beside) -> None:
        """Takes recorded rows: columns [S], and profiles [S', N] with their own ``step`` column."""
        ...

    def finish(self, info: dict[str, Any]) -> None:
        """Closes the run with its final ``run.json``."""
        ...


class Background:
    """Runs trackers on one thread, in order; ``finish`` waits for them."""

    def __init__(self, trackers: list[Tracker]):
        self._trackers = trackers
        self._count = len(trackers)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracker")
        self._starts: list[Future] = []

    def start(self) -> None:
        """Opens every tracker's run, without waiting for it."""
        self._starts = [
            self._thread.submit(self._guarded, tracker, tracker.start) for tracker in self._trackers
        ]

    def log(self, metrics: Columns, profiles: Columns, beside: Beside) -> None:
        """Hands rows on, without waiting."""
        for tracker in list(self._trackers):
            log = functools.partial(tracker.log, metrics, profiles, beside)
            self._thread.submit(self._guarded, tracker, log)

    def described(self) -> dict[str, Any]:
        """What the trackers said of themselves when they started, waiting for that."""
        return {
            name: value for start in self._starts for name, value in (start.result() or {}).items()
        }

    @property
    def is_whole(self) -> bool:
        """Whether no tracker has failed; once ``finish`` is over, all is written then."""
        return len(self._trackers) == self._count

    def finish(self, info: dict[str, Any]) -> None:
        """Closes every tracker's run and waits until all is written."""
        for tracker in list(self._trackers) if self._starts else []:
            self._thread.submit(
                self._guarded, tracker, lambda tracker=tracker: tracker.finish(info)
            )
        self._thread.shutdown(wait=True)

    def _guarded(self, tracker: Tracker, call: Callable[[], Any]) -> Any:
        if tracker not in self._trackers:
            return None
        try:
            return call()
        except Exception as error:  # a dashboard's failure must never end a run
            self._trackers.remove(tracker)
            name = type(tracker).__name__
            print(
                f"fathom: {name} stopped ({type(error).__name__}: {error}); the local record goes on",
                file=sys.stderr,
            )
            return None
