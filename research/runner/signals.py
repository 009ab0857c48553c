"""Signals that end a command: SIGTERM and SIGHUP act as Ctrl-C does; writing is not interrupted."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any, NoReturn

COMPILE_THREAD = "fathom-compile"  # the name of the threads that compile programs
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STANDARD_STREAMS = (1, 2)  # output and error
# Functions whose exceptions Python reports and drops: JAX's in garbage collections, and finalisers.
DROPS_EXCEPTIONS = ("_xla_gc_callback", "__del__")
SECONDS_UNTIL_AGAIN = 0.02
# How long the threads of a command that did not succeed have to end once its output is written.
SECONDS_TO_END = 10.0


class RunsInterrupted(KeyboardInterrupt):
    """Runs were interrupted and their records are closed; ``str`` says what became of them."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM raise KeyboardInterrupt, so that rows are written and trackers are closed.

    So does SIGHUP, when the terminal is closed, unless it is ignored, as by ``nohup``. Outside the
    main thread, where Python allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGTERM, _raise_interrupt)
    interrupt_handler = signal.getsignal(signal.SIGINT)
    if interrupt_handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, _raise_interrupt)
    hang_up_handler = signal.getsignal(signal.SIGHUP)
    if hang_up_handler is signal.SIG_DFL:
        terminals = [number for number in STANDARD_STREAMS if os.isatty(number)]
        signal.signal(signal.SIGHUP, partial(_hang_up, terminals))
    try:
        with _without_dropped_interrupts():
            yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        if interrupt_handler is not None:
            signal.signal(signal.SIGINT, interrupt_handler)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, hang_up_handler)


def _hang_up(terminals: Sequence[int], *_: object) -> None:
    """Discards what would be printed on a terminal that is gone, and ends as SIGTERM does.

    The shell sends the signal as well as the system: the second one is ignored.

    Args:
        terminals: the file descriptors of standard output and error that were a terminal.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null_device = os.open(os.devnull, os.O_WRONLY)
    for number in terminals:
        os.dup2(null_device, number)
    os.kill(os.getpid(), signal.SIGTERM)


def _raise_interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, a little later where Python would drop the exception."""
    while frame is not None:
        if frame.f_code.co_name in DROPS_EXCEPTIONS:
            _send_again(number)
            return
        frame = frame.f_back
    raise KeyboardInterrupt


@contextlib.contextmanager
def _without_dropped_interrupts() -> Iterator[None]:
    """Raises an interrupt that Python drops once more, a little later, instead of reporting it.

    Python drops what is raised in the callback of a weak reference, say, wherever that is called.
    """
    report = sys.unraisablehook

    def report_others(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            _send_again(signal.SIGTERM)  # which is handled here even where SIGINT is ignored
        else:
            report(unraisable)

    sys.unraisablehook = report_others
    try:
        yield
    finally:
        sys.unraisablehook = report


def _send_again(number: int) -> None:
    """Sends a signal to this process a little later, unless nothing handles it any more."""

    def send() -> None:
        if callable(signal.getsignal(number)):
            os.kill(os.getpid(), number)

    again = threading.Timer(SECONDS_UNTIL_AGAIN, send)
    again.daemon = True
    again.start()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Lets the body import modules before a signal has an effect.

    An exception in the middle of an import can end the process with a fault in compiled code. The
    second signal during the body ends the process; nothing has been written yet.

    Raises:
        KeyboardInterrupt: after the body, where a signal was received.
    """
    with _held_back(at_second=_end_without_writing):
        yield


@contextlib.contextmanager
def _held_back(
    *,
    at_second: Callable[[], NoReturn],
    at_first: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Lets the body end before a signal has an effect, in the main thread.

    Args:
        at_second: called at the second signal during the body.
        at_first: called at the first one.

    Raises:
        KeyboardInterrupt: after the body, where a signal was received.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def hold_back(number: int, _: object) -> None:
        received.append(number)
        if len(received) > 1:
            at_second()
        if at_first is not None:
            at_first()

    with _handled_by(hold_back):
        yield
    if received:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Handles the signals that end a command by a function, except for those that are ignored."""
    handlers = {}
    for number in ENDING_SIGNALS:
        before = signal.getsignal(number)
        if before not in (None, signal.SIG_IGN):
            handlers[number] = before
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in handlers.items():
            signal.signal(number, before)


@contextlib.contextmanager
def delayed() -> Iterator[None]:
    """Lets a short body end before a signal has its effect, which is then that of any moment.

    An exception in the middle of starting a thread of a pool would leave a thread that the pool
    does not know. It would never end, and neither would the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    with _handled_by(lambda number, _: received.append(number)):
        yield
    for number in received:
        os.kill(os.getpid(), number)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Lets the body write what was measured before a signal has an effect.

    The first signal during the body says so; a second one ends the process at once.

    Raises:
        KeyboardInterrupt: after the body, where a signal was received.
    """
    with _held_back(at_first=_say_that_it_writes, at_second=_stop_at_once):
        yield


def end_process(exit_code: int) -> NoReturn:
    """Ends the process, after everything is written.

    Python would wait for a program that is still being compiled, and for ever for a thread that an
    interrupt has cut off from what it waits for. A signal from here on has no more to stop than
    that waiting.
    """
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) not in (None, signal.SIG_IGN):
            signal.signal(number, _exit_quietly)
    if any(thread.name.startswith(COMPILE_THREAD) for thread in threading.enumerate()):
        sys.stderr.flush()
        os._exit(exit_code)
    if exit_code:
        end = threading.Timer(SECONDS_TO_END, os._exit, (exit_code,))
        end.daemon = True
        end.start()
    sys.exit(exit_code)


def _exit_quietly(*_: object) -> NoReturn:
    os._exit(1)


def _say_that_it_writes() -> None:
    _say("writing what was measured; interrupt once more to stop at once")


def _end_without_writing() -> NoReturn:
    _say("interrupted")
    os._exit(1)


def _stop_at_once() -> NoReturn:
    _say("stopped at once; the same command goes on from what is written")
    os._exit(1)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        print(f"fathom: {line}", file=sys.stderr, flush=True)
