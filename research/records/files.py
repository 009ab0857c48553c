"""Writes files completely or not at all, also where the disk is full."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

RESERVED_BYTES = 64 * 1024


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that replaces ``path`` once the body has written it.

    Where the body fails, the temporary file is removed, which frees its space.

    Raises:
        OSError: the file cannot be written; the error names ``path``.
    """
    temporary = path.with_suffix(".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno is None:
            raise
        # Arrow's errors have a number, but neither a file name nor a short message.
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


class ReservedSpace:
    """Space on the disk that is kept free, so that a run can record that the disk is full."""

    def __init__(self, path: Path):
        """Reserves the space; where that fails, the run fails when it writes its first file."""
        self._path = path
        with contextlib.suppress(OSError), path.open("wb") as file:
            file.write(os.urandom(RESERVED_BYTES))  # no file system stores it in less

    def release(self) -> None:
        """Frees the space."""
        self._path.unlink(missing_ok=True)
