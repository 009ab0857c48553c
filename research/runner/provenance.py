"""Where a run comes from: the versions and the commit that ``run.json`` names."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from research import __version__


@functools.cache
def versions() -> dict[str, str]:
    """Fathom, Python, and the packages that decide numbers."""
    packages = ("jax", "flax", "optax", "hydra-core", "wandb", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"fathom": __version__, "python": platform.python_version()} | found


@functools.cache
def git() -> dict[str, Any] | None:
    """The commit of Fathom itself, where it runs from a checkout."""
    package = str(Path(__file__).parent.parent)
    try:
        run = functools.partial(
            subprocess.run, capture_output=True, text=True, timeout=5, check=True
        )
        commit = run(["git", "-C", package, "rev-parse", "HEAD"]).stdout.strip()
        return {
            "commit": commit,
            "dirty": bool(run(["git", "-C", package, "status", "--porcelain"]).stdout.strip()),
        }
    except (OSError, subprocess.SubprocessError):
        return None
