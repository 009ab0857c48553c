"""Uploading what was recorded offline to Weights & Biases."""

import os
import subprocess
import sys
from pathlib import Path


def offline_runs(root: Path) -> list[Path]:
    """The folders of W&B runs under ``root``/wandb that have not been uploaded."""
    folders = sorted((root / "wandb").glob("offline-run-*"))
    return [folder for folder in folders if not list(folder.glob("*.synced"))]


def sync() -> int:
    """Uploads every offline run; returns the exit code.

    ``wandb sync`` ends with 0 also where it failed, so its words are read.
    """
    root = Path(os.environ.get("WANDB_DIR") or "outputs")
    folders = offline_runs(root)
    if not folders:
        print(f"nothing to upload: no offline run under {root / 'wandb'} that is not uploaded already")
        return 0
    failed = 0
    for count, folder in enumerate(folders, 1):
        command = [sys.executable, "-m", "wandb", "sync", "--include-offline", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        said = done.stdout + done.stderr
        wrong = done.returncode != 0 or "error" in said.lower()
        failed += wrong
        last = said.strip().splitlines()[-1] if said.strip() else "no answer"
        print(f"[{count}/{len(folders)}] {folder.name}: {last if wrong else 'uploaded'}", flush=True)
    return 1 if failed else 0
