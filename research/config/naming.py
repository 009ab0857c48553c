"""Names of run directories, made from a run's overrides."""

import functools
import hashlib
import re
from collections.abc import Sequence

from research.config.schema import iter_declared

MAX_BYTES = 80  # some file systems and tools do not take much longer names
HASH_LENGTH = 8

# Overrides that are the same in all runs of a study, or that do not affect results.
NOT_IN_RUN_NAME = ("name", "experiment", "tracker", "mesh", "checkpoint")


def run_name(overrides: Sequence[str]) -> str:
    """The sorted overrides of a run, joined by commas.

    A name ends in a hash where it would be longer than ``MAX_BYTES``, or where a character had to
    be replaced because a directory cannot have it.

    >>> run_name(["seed=1", "model.depth=64", "experiment=degradation"])
    'model.depth=64,seed=1'
    >>> run_name([])
    'default'
    """
    values = {}
    for override in overrides:
        path, _, value = override.lstrip("+").partition("=")
        group = re.split(r"[.@]", path)[0]
        if group not in NOT_IN_RUN_NAME:
            values[path] = _normalize_number(path, value)
    parts = [f"{path}={values[path]}" for path in sorted(values)]
    whole = ",".join(parts) or "default"
    name = re.sub(r"[^\w.=,+\-\[\]]", "_", whole)
    if name == whole and len(name.encode()) <= MAX_BYTES:
        return name
    num_bytes = MAX_BYTES - HASH_LENGTH - 1
    shortened = name.encode()[:num_bytes].decode(errors="ignore")
    digest = hashlib.sha256(whole.encode()).hexdigest()
    return f"{shortened}-{digest[:HASH_LENGTH]}"


def _normalize_number(path: str, value: str) -> str:
    """Rewrites a number with a point or an exponent: 1e-2 and 0.010 become 0.01.

    Integers and lists stay, but for settings that hold any number 1 becomes 1.0.
    """
    if not re.search(r"[.eE]", value) and path not in _number_paths():
        return value
    try:
        return repr(float(value))
    except ValueError:
        return value


@functools.cache
def _number_paths() -> frozenset[str]:
    """The settings whose values need not be whole."""
    paths = set()
    for item in iter_declared():
        if item.field.type in (float, float | None):
            paths.add(item.path)
    return frozenset(paths)
