"""Names of run directories: the overrides that differ, short enough for every file system."""

import hashlib
import re
from collections.abc import Sequence

LONGEST = 80  # bytes
SHARED = (
    "name",
    "experiment",
    "tracker",
    "mesh",
    "checkpoint",
)  # what a folder shares, or what changes no number


def run_name(overrides: Sequence[str]) -> str:
    """The sorted overrides joined by commas; past ``LONGEST`` bytes, or where a folder cannot hold
    them, a hash.

    >>> run_name(["seed=1", "model.depth=64", "experiment=degradation"])
    'model.depth=64,seed=1'
    >>> run_name([])
    'default'
    """
    parts = [override.lstrip("+").partition("=") for override in overrides]
    last = {path: value for path, _, value in parts}
    kept = {
        path: _canonical(value)
        for path, value in last.items()
        if re.split(r"[.@]", path)[0] not in SHARED
    }
    whole = ",".join(f"{path}={kept[path]}" for path in sorted(kept)) or "default"
    name = re.sub(r"[^\w.=,+\-\[\]]", "_", whole)
    if name == whole and len(name.encode()) <= LONGEST:
        return name
    return f"{name.encode()[: LONGEST - 9].decode(errors='ignore')}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _canonical(value: str) -> str:
    """One spelling for a number: 1e-2 and 0.010 are 0.01."""
    try:
        return repr(float(value)) if re.search(r"[.eE]", value) else value
    except ValueError:
        return value
