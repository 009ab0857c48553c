"""Paths as users write them: in the home directory, which may not exist, or through links."""

import os
from pathlib import Path


def expand_home(path: str | Path) -> Path:
    """Replaces ``~`` at the start of a path by a home directory.

    Args:
        path: the path as the user wrote it.

    Returns:
        The path as it is where there is no such home directory, as in a container.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def find_home() -> Path | None:
    """The home directory of the user; None where there is none."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def real_path(path: str | Path) -> Path:
    """The absolute path without links; a link that leads to itself stays, and nothing is raised."""
    return Path(os.path.realpath(path))
