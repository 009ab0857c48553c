"""One preparing process at a time: two that prepare one dataset at once destroy each other's files."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds a dataset's folder, made where it is missing; waits for whoever holds it, also in other processes."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
