"""Uploading what was recorded offline to Weights & Biases."""

import os
import subprocess
import sys
from pathlib import Path

from research.records.record import is_being_written, read_info
from research.records.trackers.server import server_address, server_answers


def offline_runs(root: Path) -> list[Path]:
    """The folders of W&B runs under ``root``/wandb that have not been uploaded."""
    folders = sorted(
        (root.absolute() / "wandb").glob("offline-run-*")
    )  # W&B's own process may be elsewhere
    return [folder for folder in folders if not list(folder.glob("*.synced"))]


def being_trained(root: Path) -> set[str]:
    """The ids of runs under ``root`` that a process is training: their W&B folders are not whole yet."""
    runs = {file.parent: read_info(file.parent) or {} for file in root.glob("*/*/run.json")}
    # Asking takes the lock for a moment: not of runs that are over, which might be about to begin elsewhere.
    return {
        info["id"]
        for run, info in runs.items()
        if info.get("status") == "running" and is_being_written(run)
    }


def sync() -> int:
    """Uploads every offline run; returns the exit code.

    ``wandb sync`` ends with 0 also where it failed, so the mark that it leaves behind an upload is what counts.
    """
    root = Path(os.environ.get("WANDB_DIR") or "outputs")
    busy = being_trained(Path("outputs"))
    folders = []
    for folder in offline_runs(root):
        if folder.name.rpartition("-")[2] in busy:
            print(f"{folder.name}: still being trained, left for later")
        else:
            folders.append(folder)
    if not folders:
        print(
            f"nothing to upload: no offline run under {root / 'wandb'} that is not uploaded already"
        )
        return 0
    address = server_address()
    if not server_answers(address):
        for folder in folders:
            print(f"{folder.name}: not uploaded, {address} does not answer")
        return 1
    failed = 0
    for count, folder in enumerate(folders, 1):
        said = subprocess.run(
            [sys.executable, "-m", "wandb", "sync", str(folder)], capture_output=True, text=True
        )
        lines = (said.stdout + said.stderr).strip().splitlines() or ["no answer"]
        uploaded = bool(list(folder.glob("*.synced")))
        failed += not uploaded
        print(
            f"[{count}/{len(folders)}] {folder.name}: {'uploaded' if uploaded else lines[-1]}",
            flush=True,
        )
    return 1 if failed else 0
