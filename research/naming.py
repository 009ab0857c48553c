"""Names of run directories: the overrides that differ, short enough for every file system."""

import hashlib
import re
from collections.abc import Sequence

LONGEST = 80  # bytes
SHARED = ("name", "experiment", "tracker")  # settings that the runs of one folder share or that change no number


def run_name(overrides: Sequence[str]) -> str:
    """The sorted overrides joined by commas; past ``LONGEST`` bytes, or where a folder cannot hold them, a hash.

    >>> run_name(["seed=1", "model.depth=64", "experiment=degradation"])
    'model.depth=64,seed=1'
    >>> run_name([])
    'default'
    """
    kept = sorted(o.lstrip("+") for o in overrides if re.split(r"[.=@]", o.lstrip("+"))[0] not in SHARED)
    whole = ",".join(kept) or "default"
    name = re.sub(r"[^\w.=,+\-\[\]]", "_", whole)
    if name == whole and len(name.encode()) <= LONGEST:
        return name
    return f"{name.encode()[: LONGEST - 9].decode(errors='ignore')}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
