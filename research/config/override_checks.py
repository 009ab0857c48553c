"""Checks overrides before Hydra composes anything: their syntax, their groups, the size of a sweep.

Hydra's own messages for these mistakes do not name the override, or come after a long time.
"""

import importlib.util
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    OverrideType,
    RangeSweep,
)
from hydra.errors import HydraException

from research.config.errors import EXTRA_GROUPS, describe_glob, describe_syntax_error
from research.config.fields import written
from research.config.hydra_config import resource_dir
from research.config.numbers import check_not_lost
from research.config.schema import enum_paths, setting_paths, text_paths
from research.config.suggestions import format_suggestion
from research.config.sweeper import MAX_BATCH_SIZE, check_max_batch_size
from research.config.validation import choices_of, describe_wrong_name

MAX_JOBS = 10_000
FIXED_SETTINGS = {  # of Hydra, and why they cannot be changed
    "hydra.callbacks": "a callback checks the settings; add your own as +hydra.callbacks.NAME",
    "hydra.callbacks.check_first": "it checks the settings",
    "hydra.output_subdir": "the settings of a run are read from its folder .hydra",
    "hydra.job.id": "Hydra itself writes it",
    "hydra.job.num": "Hydra itself writes it",
    "hydra.runtime": "Hydra itself writes it",
    "hydra.overrides": "Hydra itself writes it",
    "hydra.help": "fathom train --help has its own text",
    "hydra.hydra_help": "fathom train --help has its own text",
}
NO_NAMES = ("${", "???")  # an option of a group is a name, as it is
PATH = re.compile(r"[+~]*[\w./@:-]+")


def parse_overrides(words: Iterable[str], loader: ConfigLoader | None = None) -> list[Override]:
    """Parses overrides as Hydra does.

    Args:
        words: the overrides as they were written.
        loader: Hydra's loader, which knows the options that ``glob`` selects from.

    Raises:
        ValueError: one of them is not valid; the message has it, and what is wrong.
    """
    parser = OverridesParser.create(config_loader=loader)
    parsed = []
    for word in words:
        try:
            override = parser.parse_override(word)
        except HydraException:
            raise ValueError(describe_syntax_error(word)) from None
        override.config_loader = loader
        _check_path(word, override)
        _check_numbers(word)
        _check_text(word, override)
        _check_names(override)
        _check_group_value(override)
        _check_fixed(override)
        parsed.append(override)
    _check_logging(parsed)
    _check_max_batch_size(parsed)
    return parsed


def describe_repeated(overrides: Iterable[Override]) -> list[str]:
    """A line for each setting that is given several times with different values.

    Args:
        overrides: those of one command line, in order.
    """
    words: dict[str, list[str]] = {}
    for override in overrides:
        for path, word in _settings_in(override):
            words.setdefault(path, []).append(word)
    lines = []
    for path, given in words.items():
        if len(set(given)) > 1:
            lines.append(
                f"{path} is given {len(given)} times, and the last one counts: {given[-1]}"
            )
    return lines


def _settings_in(override: Override) -> Iterator[tuple[str, str]]:
    """The settings that an override sets, each with the word that sets it."""
    path = override.key_or_group
    value = override.value()
    if not isinstance(value, dict):
        yield path, override.input_line or ""
        return
    for name, inner in value.items():
        yield f"{path}.{name}", f"{path}.{name}={written(inner)}"


def _check_path(word: str, override: Override) -> None:
    path = override.key_or_group
    if not path or override.package == "":
        raise ValueError(f"{word} names no setting: write setting=value, such as model.depth=8")
    if override.package is not None and path in _group_names():
        raise ValueError(f"{word} must be {path}=…, because a group has one place, got {path}@…")


def _check_numbers(word: str) -> None:
    try:
        check_not_lost(word)
    except ValueError as error:
        raise ValueError(f"{word} cannot be set: {error}") from None


def _check_text(word: str, override: Override) -> None:
    """A text that Hydra reads as a number or a truth value, such as 1e3, would be another text."""
    path = override.key_or_group
    if path not in text_paths() or override.type is OverrideType.DEL:
        return
    value = override.value()
    written_value = word.partition("=")[2]
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    for each in values:
        for part in each if isinstance(each, list) else [each]:
            is_as_written = re.search(rf"(^|[,\[]){re.escape(str(part))}($|[,\]])", written_value)
            if isinstance(part, int | float) and not is_as_written:
                example = "…" if "," in written_value else written_value.strip("[]")
                raise ValueError(
                    f"{word} would be read as {written(part)}, which is another text: quote it for "
                    f"the shell and for Hydra: '\"{example}\"'"
                )


def _check_names(override: Override) -> None:
    """A number is no name: OmegaConf would take it for the position of one."""
    path = override.key_or_group
    if path not in enum_paths() or override.type is OverrideType.DEL:
        return
    value = override.value()
    if isinstance(value, RangeSweep | IntervalSweep):
        value = "a range of numbers"
        raise ValueError(f"{path} must be one of {', '.join(choices_of(path))}, got {value}")
    for each in value.list if isinstance(value, ChoiceSweep) else [value]:
        if isinstance(each, int | float):
            raise ValueError(describe_wrong_name(path, written(each)))


def _check_fixed(override: Override) -> None:
    path = override.key_or_group
    if path == "hydra.searchpath" and override.type is not OverrideType.DEL:
        _check_search_path(override.value())
    for fixed, reason in FIXED_SETTINGS.items():
        is_inside = path.startswith(f"{fixed}.") and fixed != "hydra.callbacks"
        if path == fixed or is_inside:
            raise ValueError(f"{path} cannot be changed, because {reason}")


def _check_search_path(value: Any) -> None:
    """Hydra itself passes over a folder that does not exist."""
    for folder in search_folders(value):
        if not folder.is_dir():
            raise ValueError(f"hydra.searchpath must hold folders, got {folder}")


def search_folders(value: Any) -> list[Path]:
    """The folders of a ``hydra.searchpath``, without those of packages (``pkg://``)."""
    folders = []
    for entry in value if isinstance(value, list) else [value]:
        folder = str(entry).removeprefix("file://")
        if "://" not in folder:
            folders.append(Path(folder))
    return folders


def _check_logging(overrides: Sequence[Override]) -> None:
    """Hydra shows more of loggers, of which Fathom shows none unless ``hydra/job_logging`` does."""
    given = {override.key_or_group: override for override in overrides}
    verbose = given.get("hydra.verbose")
    if verbose is not None and verbose.type is not OverrideType.DEL:
        _check_verbosity(verbose.value())
    for path in ("hydra.verbose", "hydra.job.name"):
        if path in given and not {"hydra/job_logging", "hydra/hydra_logging"} & given.keys():
            raise ValueError(
                f"{given[path].input_line} has no effect, because Fathom keeps no log: "
                "add hydra/job_logging=stdout"
            )


def _check_verbosity(value: Any) -> None:
    names = value if isinstance(value, list) else [value]
    for name in names:
        is_switch = isinstance(value, bool)
        if not is_switch and not (isinstance(name, str) and _is_logger(name)):
            raise ValueError(
                "hydra.verbose must be true, or the name of a package that logs, such as jax, "
                f"got {written(name)}"
            )


def _check_max_batch_size(overrides: Sequence[Override]) -> None:
    """Hydra's own sweeper launches so many jobs at once, and Fathom's launches all of them."""
    given = {override.key_or_group: override for override in overrides}
    override = given.get(MAX_BATCH_SIZE)
    if override is None or override.type is OverrideType.DEL:
        return
    if "hydra/sweeper" in given:
        check_max_batch_size(override.value())
    else:
        raise ValueError(
            f"{override.input_line} has no effect, because all runs of a sweep are launched at "
            "once: leave it out; hydra.launcher.max_group_size limits the runs of one program"
        )


def _is_logger(name: str) -> bool:
    """Whether a package of this name exists, which may log."""
    package = name.partition(".")[0]
    return package.isidentifier() and importlib.util.find_spec(package) is not None


def _group_names() -> list[str]:
    folders = sorted(resource_dir("conf").iterdir())
    return [folder.name for folder in folders if folder.is_dir()]


def _option_names(group: str) -> list[str]:
    files = sorted((resource_dir("conf") / group).glob("*.yaml"))
    return [file.stem for file in files]


def _check_group_value(override: Override) -> None:
    """A group takes the name of an option, or a dictionary of settings, or a list of options."""
    group = override.key_or_group
    if group == "hydra" and not isinstance(override.value(), dict):
        raise ValueError("hydra is a group of settings; set one of them, such as hydra.run.dir")
    is_group = group in _group_names()
    if is_group and override.type is OverrideType.DEL and override.value():
        raise ValueError(f"{group} cannot be deleted; choose another option, such as {group}=…")
    if not is_group or override.type is OverrideType.DEL:
        return
    if override.type is OverrideType.FORCE_ADD:
        raise ValueError(f"{group} is set already; write {group}=… without ++ to change it")
    values = [override.value()]
    if group in EXTRA_GROUPS and isinstance(values[0], list):
        raise ValueError(
            f"{group} must be one option; for a sweep over several: fathom train -m {group}=…,…"
        )
    if isinstance(values[0], ChoiceSweep):
        values = values[0].list
    for value in values:
        if group == "tracker" and isinstance(value, list) and "none" in value and len(value) > 1:
            raise ValueError(
                f"tracker=none stands alone, got {', '.join(map(written, value))}: leave none out, "
                "or write tracker=none"
            )
        is_number = isinstance(value, int | float) or value is None
        is_unknown = isinstance(value, str) and any(sign in value for sign in NO_NAMES)
        if is_number or is_unknown or isinstance(value, RangeSweep | IntervalSweep):
            raise ValueError(_describe_group_value(group, value))


def _describe_group_value(group: str, value: Any) -> str:
    names = _option_names(group)
    got = written(value)
    if isinstance(value, RangeSweep | IntervalSweep):
        got = "a range of numbers"
    hint = format_suggestion(got, names)
    return f"{group} must be one of {', '.join(names)}, got {got}{hint}"


def check_sweep(grids: Sequence[Mapping[str, Override]]) -> None:
    """Checks that each setting of a sweep has values, and that the sweep ends.

    Args:
        grids: the last override of each setting, for each grid of the sweep.

    Raises:
        ValueError: a setting has no values, or there are more runs than ``MAX_JOBS``.
    """
    num_jobs = 0.0
    for grid in grids:
        num_of_grid = 1.0
        for override in grid.values():
            num_of_grid *= count_values(override)
        num_jobs += num_of_grid
    if num_jobs > MAX_JOBS:
        overrides = itertools.chain.from_iterable(grid.values() for grid in grids)
        longest = max(overrides, key=count_values)
        raise ValueError(
            f"the sweep must have at most {MAX_JOBS} runs, got {num_jobs:.10g} "
            f"({longest.input_line} alone has {count_values(longest):.10g})"
        )


def count_values(override: Override) -> float:
    """How many values an override has in a sweep.

    Raises:
        ValueError: it has none, or they cannot be counted.
    """
    if not override.is_sweep_override():
        return 1
    value = override.value()
    match value:
        case RangeSweep():
            count = _count_range(value, override.input_line)
        case ChoiceSweep():
            count = len(value.list)
        case Glob():
            return _count_matches(value, override)
        case _:
            raise ValueError(
                f"{override.input_line} has no list of values to train one after the other: "
                "write them with commas, or as range(start,stop,step)"
            )
    if count == 0:
        raise ValueError(f"{override.input_line} holds no value, so there is no run to train")
    return count


def _count_range(sweep: RangeSweep, written: str | None) -> float:
    start = float(sweep.start or 0)
    stop = float(sweep.stop or 0)
    step = float(sweep.step)
    if step == 0 or not all(map(math.isfinite, (start, stop, step))):
        raise ValueError(f"{written} must have finite bounds and a step other than 0")
    return max(0, math.ceil((stop - start) / step))


def _count_matches(pattern: Glob, override: Override) -> int:
    group = override.key_or_group
    if group in setting_paths():
        raise ValueError(describe_glob(group, override.input_line or ""))
    if group not in _group_names():
        known = ", ".join(_group_names())
        raise ValueError(
            f"{override.input_line} must select options of a group ({known}), got {group}"
        )
    names = list(override.sweep_string_iterator())
    if not names:
        options = ", ".join(_option_names(group))
        raise ValueError(f"{override.input_line} matches no option of {group} (valid: {options})")
    return len(names)
