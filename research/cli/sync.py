"""``fathom sync``: uploads what was recorded offline to Weights & Biases."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from research.records.record import is_being_written, read_info
from research.records.trackers.server import server_address, server_answers


def main(_: Sequence[str] = ()) -> int:
    """Uploads every offline run; returns 1 where one could not be uploaded, else 0."""
    root = Path(os.environ.get("WANDB_DIR") or "outputs")
    folders = _folders_to_upload(root)
    if not folders:
        where = root / "wandb"
        print(f"nothing to upload: no offline run under {where} that is not uploaded already")
        return 0
    address = server_address()
    if not server_answers(address):
        for folder in folders:
            print(f"{folder.name}: not uploaded, {address} does not answer")
        return 1
    num_failed = 0
    for number, folder in enumerate(folders, start=1):
        error = _upload(folder)
        print(f"[{number}/{len(folders)}] {folder.name}: {error or 'uploaded'}", flush=True)
        if error:
            num_failed += 1
    return 1 if num_failed else 0


def offline_runs(root: Path) -> list[Path]:
    """The folders of W&B runs under ``root``/wandb that have not been uploaded."""
    wandb_folder = root.absolute() / "wandb"  # W&B's own process may run in another directory
    offline = []
    for folder in sorted(wandb_folder.glob("offline-run-*")):
        if not _is_uploaded(folder):
            offline.append(folder)
    return offline


def running_ids(root: Path) -> set[str]:
    """The ids of runs under ``root`` that a process is training; W&B still writes their folders."""
    ids = set()
    for file in root.glob("*/*/run.json"):
        info = read_info(file.parent) or {}
        # The check takes the run's lock for a moment. A run that has ended is not checked, because
        # another process may just be about to start it again.
        if info.get("status") == "running" and is_being_written(file.parent):
            ids.add(info["id"])
    return ids


def _folders_to_upload(root: Path) -> list[Path]:
    running = running_ids(Path("outputs"))
    folders = []
    for folder in offline_runs(root):
        run_id = folder.name.rpartition("-")[2]
        if run_id in running:
            print(f"{folder.name}: still being trained, left for later")
        else:
            folders.append(folder)
    return folders


def _upload(folder: Path) -> str:
    """Uploads one folder; returns the last line of the error, or nothing if it worked.

    ``wandb sync`` exits with 0 also where it failed, so what counts is the file that it writes
    after an upload.
    """
    command = [sys.executable, "-m", "wandb", "sync", str(folder)]
    process = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", errors="replace"
    )
    if _is_uploaded(folder):
        return ""
    lines = (process.stdout + process.stderr).strip().splitlines()
    return lines[-1] if lines else "no answer"


def _is_uploaded(folder: Path) -> bool:
    return any(folder.glob("*.synced"))
