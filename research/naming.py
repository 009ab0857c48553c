"""Names of run directories: the overrides that differ, short enough for every file system."""

import hashlib
import re
from collections.abc import Sequence

LONGEST = 80  # bytes
SHARED = ("name", "experiment", "tracker")  # settings that the runs of one folder share or that change no number


def run_name(overrides: Sequence[str]) -> str:
    """The sorted overrides joined by commas; past ``LONGEST`` bytes their beginning and a hash of all.

    >>> run_name(["seed=1", "model.depth=64", "experiment=degradation"])
    'model.depth=64,seed=1'
    >>> run_name([])
    'default'
    """
    kept = sorted(o.lstrip("+") for o in overrides if re.split(r"[.=@]", o.lstrip("+"))[0] not in SHARED)
    name = re.sub(r"[^\w.=,+\-\[\]]", "_", ",".join(kept)) or "default"
    if len(name.encode()) <= LONGEST:
        return name
    return f"{name.encode()[: LONGEST - 9].decode(errors='ignore')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
