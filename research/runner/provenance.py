"""Where a run comes from: the versions and the commit that ``run.json`` records."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from research import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "hydra-core", "wandb", "numpy")


@functools.cache
def package_versions() -> dict[str, str]:
    """The versions of Fathom, Python and the main dependencies."""
    versions = {"fathom": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        versions[name] = importlib.metadata.version(name)
    return versions


@functools.cache
def git_commit() -> dict[str, Any] | None:
    """Fathom's commit and whether files differ from it; None outside a checkout."""
    try:
        commit = _run_git("rev-parse", "HEAD")
        changes = _run_git("status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _run_git(*arguments: str) -> str:
    package = str(Path(__file__).parent.parent)
    finished = subprocess.run(
        ["git", "-C", package, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=5,
        check=True,
    )
    return finished.stdout.strip()
