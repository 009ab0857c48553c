"""Lines on standard error that say what may be a surprise."""

import functools
import sys
from collections.abc import Sequence

MAX_LISTED = 8


def notify(line: str) -> None:
    """Print one line on standard error."""
    print(f"fathom: {on_one_line(line)}", file=sys.stderr, flush=True)


def on_one_line(text: object) -> str:
    """The text on one line: control characters, such as those of a path, are escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


@functools.cache
def notify_once(line: str) -> None:
    """Print one line on standard error unless this process has printed it before."""
    notify(line)


def join_first(names: Sequence[str]) -> str:
    """The first names, and the number of those that are left out.

    >>> join_first(["a", "b"])
    'a, b'
    """
    listed = ", ".join(names[:MAX_LISTED])
    others = len(names) - MAX_LISTED
    if others <= 0:
        return listed
    return f"{listed} and {others} {'other' if others == 1 else 'others'}"
