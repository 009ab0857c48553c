"""Lines on standard error that say what was done with the data, when that may be a surprise."""

import sys
from collections.abc import Sequence

MAX_LISTED = 8


def notify(line: str) -> None:
    """Print one line on standard error."""
    print(f"fathom: {line}", file=sys.stderr, flush=True)


def join_first(names: Sequence[str]) -> str:
    """The first names, and the number of those that are left out.

    >>> join_first(["a", "b"])
    'a, b'
    """
    listed = ", ".join(names[:MAX_LISTED])
    others = len(names) - MAX_LISTED
    return f"{listed} and {others} others" if others > 0 else listed
