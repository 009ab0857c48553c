"""What Orbax reports where a checkpoint cannot be written or read: one error, no tracebacks.

Orbax works in threads. It raises the error of a thread, and prints its traceback as well.
"""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CLOSED_LOOP = "Event loop is closed"  # what asyncio raises
LOGGER = "absl"
SYSTEM_ERROR = re.compile(r"\[os_error_code='(\d+)'")  # how TensorStore gives the system's number


class _UnraisableHook:
    """Reports what ``report`` does, apart from the errors of threads that find a closed loop."""

    def __init__(self, report: Any):
        self.report = report

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != CLOSED_LOOP:
            self.report(unraisable)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Whether a record of the log is anything but the traceback of one of Orbax's threads."""
    return not (record.exc_info and "orbax" in Path(record.pathname).parts)


@contextlib.contextmanager
def without_tracebacks() -> Iterator[None]:
    """Keeps Orbax from printing a traceback for each array that it cannot write or read.

    The body raises the first error. All arrays belong to one event loop, which Orbax closes at the
    first error; the threads of the others then find it closed, also after the body has raised. So
    these reports are left out from then on.
    """
    report = sys.unraisablehook
    logger = logging.getLogger(LOGGER)
    if not isinstance(report, _UnraisableHook):
        sys.unraisablehook = _UnraisableHook(report)
    logger.addFilter(_is_wanted)  # once, however often it is added
    yield
    sys.unraisablehook = report.report if isinstance(report, _UnraisableHook) else report
    logger.removeFilter(_is_wanted)


@contextlib.contextmanager
def naming_folder(folder: Path) -> Iterator[None]:
    """Raises what the system refuses in the body as an ``OSError`` of this folder.

    The body may know the folder by a temporary path, which says nothing to the user.
    """
    try:
        yield
    except Exception as error:
        number = _system_error(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(folder)) from error


def _system_error(error: Exception) -> int | None:
    """The number of the system's error; None for any other error."""
    if isinstance(error, OSError):
        return error.errno
    found = SYSTEM_ERROR.search(str(error))
    return int(found[1]) if found else None
