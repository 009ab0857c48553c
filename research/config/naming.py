"""Names of run directories: short, readable, and made of the settings that set a run apart.

A sweep's runs are named by what varies in the sweep, ``depth=64,skip=none,seed=0``; a single run by
all that is written on its command line. A name is chosen when a run starts for the first time.
After that the run is found by its id (``research.sweeps.placement``), so that it keeps its folder
when a sweep grows, and when a later version of Fathom would choose another name.
"""

import collections
import functools
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence

from research.config.fields import written
from research.config.schema import OPTIONS, Config, flatten, paths_of_type, setting_paths

MAX_BYTES = 80  # longer names are hard to read
MAX_BYTES_OF_VARYING = 200  # file systems take 255 bytes
HASH_LENGTH = 8
SELECTORS = ("kind", "name", "level")  # the fields that name the option of a group
SEED = "seed"
LAST_GROUPS = ("train", SEED)  # at the end of a name; the others are in declared order

# Overrides that are the same in all runs of a study, or that do not affect results.
NOT_IN_RUN_NAME = (
    "name",
    "tags",
    "notes",
    "experiment",
    "tracker",
    "mesh",
    "checkpoint",
    "hydra",
)


def run_name(overrides: Sequence[str], varying: Collection[str] | None = None) -> str:
    """The overrides of a run, joined by commas, with the shortest key that is not ambiguous.

    What varies comes first. A name of more than ``MAX_BYTES`` bytes leaves out settings that do not
    vary, the longest first, and ends in a hash of all of it; so does a name in which a character
    had to be replaced because a directory cannot have it. What varies is cut off only past
    ``MAX_BYTES_OF_VARYING`` bytes.

    Args:
        overrides: the overrides of the run.
        varying: the paths of the settings in which the runs of its sweep differ.

    >>> run_name(["seed=1", "model.depth=64", "experiment=degradation"])
    'depth=64,seed=1'
    >>> run_name(["seed=1", "model.depth=64"], varying=["seed"])
    'seed=1,depth=64'
    >>> run_name([])
    'default'
    """
    first = []
    others = []
    values = given_values(overrides)
    for path in sorted(values, key=_position):
        part = f"{short_key(path)}={values[path]}"
        if varying is not None and path in varying:
            first.append(part)
        else:
            others.append(part)
    whole = ",".join([*first, *others]) or "default"
    name = _without_special_characters(whole)
    max_bytes = MAX_BYTES if others else MAX_BYTES_OF_VARYING
    if name == whole and len(name.encode()) <= max_bytes:
        return name
    digest = hashlib.sha256(whole.encode()).hexdigest()[:HASH_LENGTH]
    shortened = _shorten(first, others)
    return f"{_without_special_characters(shortened)}-{digest}"


def run_names(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The name of each run of a sweep, from the settings that vary in the sweep.

    Where nothing varies, the names hold all settings.

    Args:
        jobs: the overrides of each run.
    """
    varying = varying_settings(jobs)
    if not varying:
        return [run_name(job) for job in jobs]
    names = []
    for job in jobs:
        values = given_values(job)
        words = [f"{path}={value}" for path, value in values.items() if path in varying]
        names.append(run_name(words, varying))
    return names


def varying_settings(jobs: Sequence[Sequence[str]]) -> set[str]:
    """The paths of the fewest settings that tell the runs of a sweep apart, and a seed that varies.

    A setting that follows from the others, such as a constant of an arm, is not one of them. Of two
    settings that follow from each other, it is the one that a name begins with.

    >>> sorted(varying_settings([["seed=0", "skip=none"], ["seed=1", "skip=none"]]))
    ['seed']
    >>> sorted(varying_settings([["skip=none"], ["skip=scaled", "skip.branch_scale=0.5"]]))
    ['skip']
    """
    settings = [given_values(job) for job in jobs]
    varying = set().union(*settings)
    num_runs = _count_distinct(settings, varying)
    has_seeds = _count_distinct(settings, [SEED]) > 1
    for path in sorted(varying, key=_position, reverse=True):
        if path == SEED and has_seeds:
            continue
        without = varying - {path}
        if _count_distinct(settings, without) == num_runs:
            varying = without
    return varying


def _count_distinct(settings: Sequence[Mapping[str, str]], paths: Collection[str]) -> int:
    """How many runs can be distinguished by some of their settings; what is not set is default."""
    keys = set()
    for values in settings:
        keys.add(tuple(values.get(path, _default_text(path)) for path in paths))
    return len(keys)


@functools.cache
def _default_text(path: str) -> str:
    """The default of a setting or a group as a command line says it; empty without a default."""
    defaults = flatten(Config())
    for candidate in (path, *(f"{path}.{selector}" for selector in SELECTORS)):
        if candidate in defaults:
            return _normalize_number(path, written(defaults[candidate]))
    return ""


def given_values(overrides: Sequence[str]) -> dict[str, str]:
    """The values that overrides set, by path, as far as they belong into a name."""
    values = {}
    for override in overrides:
        path, _, value = override.lstrip("+").partition("=")
        group = re.split(r"[.@/]", path)[0]
        if group not in NOT_IN_RUN_NAME:
            values[path] = _normalize_number(path, value)
    return values


def short_key(path: str) -> str:
    """The last word of a path where no other setting or group has it, else the whole path.

    >>> short_key("model.depth"), short_key("measure.every")
    ('depth', 'measure.every')
    """
    return _short_keys().get(path, path)


@functools.cache
def _short_keys() -> Mapping[str, str]:
    """The short key of each setting that has one."""
    paths_by_word = collections.defaultdict(list)
    for path in {*setting_paths(), *OPTIONS}:
        word = path.rpartition(".")[2]
        paths_by_word[word].append(path)
    keys = {}
    for word, paths in paths_by_word.items():
        if len(paths) == 1 and word not in SELECTORS:
            keys[paths[0]] = word
    return keys


def _position(path: str) -> tuple[int, int, str]:
    """Where a setting stands in a name: in declared order, with steps and the seed at the end."""
    group = path.partition(".")[0]
    groups = [name for name in Config.__dataclass_fields__ if name not in LAST_GROUPS]
    in_order = [*groups, *LAST_GROUPS]
    paths = setting_paths()
    place_of_group = in_order.index(group) if group in in_order else len(groups)
    if path == group:
        return (place_of_group, -1, path)
    place = paths.index(path) if path in paths else len(paths)
    return (place_of_group, place, path)


def _shorten(varying: Sequence[str], others: Sequence[str]) -> str:
    """The settings that fit into a name, before a hash."""
    kept = [*varying, *others]
    longest_first = sorted(others, key=len, reverse=True)
    if not varying:
        longest_first = longest_first[:-1]  # something must remain
    for part in longest_first:
        if _num_bytes(kept) <= MAX_BYTES:
            break
        kept.remove(part)
    max_bytes = MAX_BYTES_OF_VARYING if varying else MAX_BYTES
    num_bytes = max_bytes - HASH_LENGTH - 1
    return ",".join(kept).encode()[:num_bytes].decode(errors="ignore")


def _num_bytes(parts: Sequence[str]) -> int:
    """The length of a name with a hash."""
    name = ",".join(parts)
    return len(name.encode()) + 1 + HASH_LENGTH


def _without_special_characters(text: str) -> str:
    return re.sub(r"[^\w.=,+\-\[\]]", "_", text)


def _normalize_number(path: str, value: str) -> str:
    """Rewrites a number with a point or an exponent: 1e-2 and 0.010 become 0.01.

    Integers and lists stay, but for settings that hold any number 1 becomes 1.0.
    """
    if not re.search(r"[.eE]", value) and path not in paths_of_type(float):
        return value
    try:
        return repr(float(value))
    except ValueError:
        return value
