"""W&B's own process, which writes its files and sends them: ending it where it has failed."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from research.records.trackers.background import Unresponsive, call_within
from research.records.trackers.server import import_wandb

NAME = "wandb-core"
TEARDOWN_SECONDS = 10.0


def stop_service() -> None:
    """Ends W&B's process after a failure; the next run starts a new one.

    It may write until it ends. It has been seen to wait for ever instead of ending, also longer
    than the process that started it, and W&B then waits for it when Python ends.
    """
    if "wandb" not in sys.modules:  # nothing was sent
        return
    wandb = import_wandb()
    with contextlib.suppress(Exception, Unresponsive):
        call_within(TEARDOWN_SECONDS, wandb.teardown)
    kill_service()


def kill_service() -> None:
    """Kills W&B's process at once."""
    for pid in service_pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def service_pids() -> list[int]:
    """The ids of W&B's processes that this process has started."""
    table = _read_linux_processes() if Path("/proc/self/stat").exists() else _list_processes()
    pids = []
    for pid, parent, name in table:
        if parent == os.getpid() and Path(name).name == NAME:
            pids.append(pid)
    return pids


def _read_linux_processes() -> list[tuple[int, int, str]]:
    """Each process: its id, its parent's id and its name."""
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended
            continue
        name = text[text.index("(") + 1 : text.rindex(")")]
        parent = text[text.rindex(")") + 1 :].split()[1]
        processes.append((int(folder.name), int(parent), name))
    return processes


def _list_processes() -> list[tuple[int, int, str]]:
    """The same from the command ``ps``."""
    command = ["ps", "-A", "-o", "pid=,ppid=,comm="]
    listing = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    processes = []
    for line in listing.stdout.splitlines():
        pid, parent, name = line.split(maxsplit=2)
        processes.append((int(pid), int(parent), name))
    return processes
