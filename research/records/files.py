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
        OSError: the file cannot be written; the error names ``path``, or the folder that lies in
            the place of the temporary file.
    """
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)  # a killed process left it, or a link, which is not followed
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
        self.release()  # a killed process left it, or a link, which is not followed
        with contextlib.suppress(OSError), path.open("xb") as file:
            file.write(os.urandom(RESERVED_BYTES))  # no file system stores it in less

    def release(self) -> None:
        """Frees the space, unless something else lies in its place."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
