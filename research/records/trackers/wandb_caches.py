"""Where W&B keeps what it can do without: a temporary folder in place of one it cannot write."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any


def use_writable_caches(wandb: Any) -> None:
    """Sets other folders for W&B's logs and staged files where those of the user do not work.

    Without the first, W&B prints each line of its log; without the second, it sends no tables.

    Args:
        wandb: the package.
    """
    folders = {
        "WANDB_CACHE_DIR": wandb.env.get_cache_dir(),
        "WANDB_DATA_DIR": wandb.env.get_data_dir(),
    }
    unusable = {name: folder for name, folder in folders.items() if not _is_writable(folder)}
    if not unusable:
        return
    temporary = tempfile.mkdtemp(prefix="wandb-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    for name in unusable:
        os.environ[name] = temporary
    listed = " and ".join(str(folder) for folder in unusable.values())
    print(
        f"fathom: W&B cannot write to {listed} ({', '.join(unusable)}); it uses {temporary}",
        file=sys.stderr,
    )


def _is_writable(folder: str | Path) -> bool:
    """Whether a folder can be written, which is created."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
