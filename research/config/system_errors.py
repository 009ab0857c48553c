"""Explains in one line what the machine refused: a full disk, too little memory, no such device."""

import errno
import os
from pathlib import Path

OTHER_PLACE = (
    "start in another directory, or choose one with hydra.run.dir=FOLDER "
    "(a sweep: hydra.sweep.dir=FOLDER)"
)
OTHER_FILE_SYSTEM = f"its file system lacks locks or renaming: {OTHER_PLACE}"
# What the system reports of the machine, whatever a program does.
MACHINE_ERRORS = {
    errno.ENOSPC: "free some space, then give the same command again",
    errno.EDQUOT: "free some space, then give the same command again",
    errno.EFBIG: "allow larger files, then give the same command again",
    errno.EROFS: OTHER_PLACE,
    errno.EIO: "check the disk",
    errno.EMFILE: "allow more open files with ulimit -n",
    errno.ENFILE: "allow more open files with ulimit -n",
    errno.ENOMEM: "free some memory",
    errno.ENOLCK: OTHER_FILE_SYSTEM,
    errno.ENOSYS: OTHER_FILE_SYSTEM,
    errno.EOPNOTSUPP: OTHER_FILE_SYSTEM,
    errno.EXDEV: OTHER_FILE_SYSTEM,
}


def explain_system_error(error: BaseException) -> str | None:
    """One line for an error that the machine caused; None for any other error."""
    message = str(error).strip().split("\n")[0]
    if isinstance(error, OSError):
        return _explain_os_error(error)
    if isinstance(error, MemoryError):
        return f"not enough memory: {message or 'an array is too large'}"
    if "RESOURCE_EXHAUSTED" in message:
        return (
            f"not enough memory on the device ({message}): "
            "reduce train.batch_size, model.width or model.depth"
        )
    if isinstance(error, OverflowError):
        return f"a setting is too large to compute with ({message})"
    return None


def describe_in_way(place: str | bytes | Path) -> str:
    """The line for a file, or a link that leads nowhere, where there should be a directory."""
    path = Path(os.fsdecode(place))
    if path.is_symlink() and not path.exists():
        target = os.readlink(path)
        return f"{path} is a link to {target}, which does not exist: create that or remove the link"
    return f"{path} is in the way, because it is no directory: move or remove it"


def _explain_os_error(error: OSError) -> str | None:
    advice = MACHINE_ERRORS.get(error.errno or 0)
    if isinstance(error, PermissionError) and _can_be_read(error.filename):
        advice = OTHER_PLACE
    if advice:
        reason = os.strerror(error.errno or 0)
        place = f"{error.filename} cannot be written: " if error.filename else ""
        return f"{place}{reason}; {advice}"
    if isinstance(error, FileExistsError) and error.filename:
        return describe_in_way(error.filename)
    blocking = _find_file_in_way(error)
    if blocking:
        return describe_in_way(blocking)
    if error.filename:
        return f"cannot open {error.filename}: {error.strerror}"
    if isinstance(error, FileNotFoundError):
        if error.errno:  # of the system, which has no name for it
            return "the current directory does not exist any more: change to one that does"
        return str(error).strip().split("\n")[0]
    return None


def _find_file_in_way(error: OSError) -> str:
    """The file that stands where a path has a folder; empty for other errors."""
    if not isinstance(error, NotADirectoryError) or error.filename is None:
        return ""
    place = os.fsdecode(error.filename)
    while place and not os.path.lexists(place):
        parent = os.path.dirname(place)
        if parent == place:
            return ""
        place = parent
    return "" if os.path.isdir(place) else place


def _can_be_read(path: str | bytes | None) -> bool:
    """Whether a file may be read, or its folder where it does not exist: so writing it failed."""
    if path is None:
        return False
    place = os.path.abspath(path)
    while not os.path.lexists(place) and os.path.dirname(place) != place:
        place = os.path.dirname(place)
    mode = os.R_OK | os.X_OK if os.path.isdir(place) else os.R_OK
    return os.access(place, mode)
