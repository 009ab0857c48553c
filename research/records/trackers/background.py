"""Calls on a thread that does not hold up the process where a call never returns."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, TypeVar

T = TypeVar("T")


class Unresponsive(Exception):
    """A call has not returned in the time that it may take."""


class BackgroundThread:
    """Makes calls one after the other. The process may end before they have returned.

    The threads of a ``ThreadPoolExecutor`` are waited for when the process ends, also for ever.
    """

    def __init__(self, name: str):
        self._calls: queue.SimpleQueue[tuple[Future, Callable[[], Any]] | None]
        self._calls = queue.SimpleQueue()
        self._last_change = time.monotonic()  # when a call began or ended
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def submit(self, call: Callable[[], T]) -> "Future[T]":
        """Makes the call after those before it."""
        future: Future[T] = Future()
        self._calls.put((future, call))
        if self._thread.ident is None:
            self._last_change = time.monotonic()
            self._thread.start()
        return future

    def wait(self, future: "Future[T]", patience: float) -> T:
        """The result of a call.

        Args:
            future: what ``submit`` returned.
            patience: the seconds that this call, and each one before it, may take.

        Raises:
            Unresponsive: a call takes longer.
        """
        while not future.done():
            seconds_left = self._last_change + patience - time.monotonic()
            if seconds_left <= 0:
                raise Unresponsive
            wait_for([future], timeout=seconds_left)
        return future.result()

    def stop(self) -> None:
        """Ends the thread after the calls that were submitted."""
        self._calls.put(None)

    def _work(self) -> None:
        while True:
            item = self._calls.get()
            if item is None:
                return
            future, call = item
            self._last_change = time.monotonic()
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
            self._last_change = time.monotonic()


def call_within(seconds: float, call: Callable[[], T]) -> T:
    """Makes a call on a thread of its own.

    Args:
        seconds: how long it may take.
        call: the call.

    Raises:
        Unresponsive: it takes longer; its thread is left alone.
    """
    thread = BackgroundThread("tracker")
    future = thread.submit(call)
    thread.stop()
    return thread.wait(future, seconds)
