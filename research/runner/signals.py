"""SIGTERM is handled like Ctrl-C."""

import contextlib
import signal
from collections.abc import Iterator
from typing import NoReturn


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM raise KeyboardInterrupt, so that rows are written and trackers are closed."""
    handler = signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _raise_interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
