"""The compiled programs that are kept on disk for later processes. Does not import jax at its top.

JAX writes an entry directly under its name and never replaces it. So an entry that was cut off, by
a full disk or a killed process, stays: each process fails to read it, warns, and compiles anew.
"""

import contextlib
import errno
import functools
import os
import re
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

from research.config.notices import notify_once
from research.config.paths import find_home

# What JAX warns of; the first one names the program.
CANNOT_READ = re.compile(r"Error reading persistent compilation cache entry for '(\w+)'")
CANNOT_WRITE = re.compile(r"Error writing persistent compilation cache entry")


def use_program_cache() -> None:
    """Has JAX keep compiled programs on disk, where the user has chosen or among the user's caches.

    Entries that cannot be read are removed, so that the program is kept once it is compiled anew.
    """
    import jax

    chosen = getattr(jax.config, "jax_compilation_cache_dir", None)
    if chosen is not None:
        _use_chosen(chosen)
        return
    folder = find_folder()
    if folder is None:
        _report_no_folder()
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    _handle_warnings_once(folder)


def _use_chosen(place: str) -> None:
    """Has JAX keep compiled programs where the user has chosen, or nowhere if that cannot be."""
    import jax

    if not place or "://" in place:  # no cache, or one that is not of this machine's file system
        return
    fault = _find_fault(Path(place))
    if not fault:
        _handle_warnings_once(Path(place))
        return
    jax.config.update("jax_compilation_cache_dir", None)
    _report_unusable(f"JAX_COMPILATION_CACHE_DIR={place}", fault)


def _report_no_folder() -> None:
    """Says why there is no folder among the user's caches, unless the user has no place for any."""
    folder = _folder_of_user()
    if folder is None:
        return
    chosen = os.environ.get("XDG_CACHE_HOME")
    place = f"XDG_CACHE_HOME={chosen}" if chosen else str(folder)
    _report_unusable(place, _find_fault(folder, os.W_OK))


def _report_unusable(place: str, fault: str) -> None:
    notify_once(f"{place} cannot be used ({fault}), so compiled programs are not kept")


def _find_fault(folder: Path, access: int = os.R_OK | os.X_OK) -> str:
    """Why programs cannot be kept in a folder, which is created; empty if they can.

    Args:
        folder: the folder.
        access: what must be allowed there, as ``os.access`` takes it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        return os.strerror(errno.ENOTDIR)
    except OSError as error:
        return error.strerror or type(error).__name__
    return "" if os.access(folder, access) else os.strerror(errno.EACCES)


@functools.cache
def _handle_warnings_once(folder: Path) -> None:
    handle_warnings(folder)


def find_folder() -> Path | None:
    """The folder of the cache, which is created; None where nothing can be written."""
    folder = _folder_of_user()
    if folder is None or _find_fault(folder, os.W_OK):
        return None
    return folder


def _folder_of_user() -> Path | None:
    """The folder among the user's caches; None for a user without a home directory."""
    cache = os.environ.get("XDG_CACHE_HOME")
    if cache:
        return Path(cache) / "fathom" / "xla"
    home = find_home()
    return home / ".cache" / "fathom" / "xla" if home else None


def handle_warnings(folder: Path) -> None:
    """Acts on what JAX warns of the cache, instead of showing it. Other warnings stay as they are.

    Args:
        folder: the folder of the cache.
    """
    show = warnings.showwarning

    def act_or_show(message: Any, *details: Any, **named: Any) -> None:
        unreadable = CANNOT_READ.match(str(message))
        if unreadable:
            num_removed = remove_damaged(folder, unreadable.group(1))
            if num_removed:
                print(
                    f"fathom: a compiled program in {folder} was damaged; it is compiled again",
                    file=sys.stderr,
                )
        elif not CANNOT_WRITE.match(str(message)):
            show(message, *details, **named)

    for pattern in (CANNOT_READ, CANNOT_WRITE):  # also where warnings are errors
        warnings.filterwarnings("always", pattern.pattern)
    warnings.showwarning = act_or_show


def remove_damaged(folder: Path, program: str) -> int:
    """Removes the entries of a program that cannot be decompressed; returns their number.

    Args:
        folder: the folder of the cache.
        program: the name of the program; there is an entry for each of its versions.
    """
    num_removed = 0
    for file in folder.glob(f"{program}-*"):
        with contextlib.suppress(OSError):
            if not _is_whole(file.read_bytes()):
                file.unlink()
                num_removed += 1
    return num_removed


def _is_whole(content: bytes) -> bool:
    """Whether an entry can be decompressed.

    JAX uses Zstandard where it finds it. As Python has no reader for that, such an entry is not
    taken for whole, and the program is compiled again.
    """
    try:
        zlib.decompress(content)
    except zlib.error:
        return False
    return True
