"""Checks the YAML files that an override selects, such as ``conf/experiment/NAME.yaml``.

Hydra reports a mistake in such a file without the file's name, or not at all. These checks name the
file and the place, and ``name_place`` does so for what is wrong only in the composed configuration.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from research.config import schema
from research.config.numbers import check_not_lost
from research.config.resources import resource_dir
from research.config.sweeper import SETTINGS_OF_ALL_JOBS, check_max_batch_size
from research.config.yaml_files import load_bounded
from research.config.yaml_readings import check_readings

EXAMPLE = "seed: 0"
GLOBAL_GROUPS = ("experiment", "debug")  # whose files set the settings of all groups
NAME = re.compile(r"[\w/.-]{1,200}")
BYTE_ORDER_MARK = "\ufeff"  # which some editors write and Hydra takes for a part of the header
SUBJECT = re.compile(r"(there is no (?P<choice>[\w/]+=\S+?)(?=[ ;])|(?P<path>[\w./]+)(?=[ =]))")
HEADER = re.compile(r"^#\s*@package\s+_global_\s*$", re.MULTILINE)


class _Loader(yaml.SafeLoader):
    """Reads YAML and refuses a key that stands twice in a mapping, as OmegaConf does.

    Numbers that are too small for a number of Python are refused too.
    """

    def construct_scalar(self, node: Any) -> Any:
        try:
            check_not_lost(node.value)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(
                problem=str(error), problem_mark=node.start_mark
            ) from None
        return super().construct_scalar(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        for position, (key, _) in enumerate(node.value):
            if key.value in keys[:position]:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} is there twice", problem_mark=key.start_mark
                )
        return super().construct_mapping(node, deep)


def check_config_files(overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """Checks every file that the overrides of a command select.

    Args:
        overrides: the overrides, such as ``experiment=NAME``.
        folders: where the files of the config groups are.

    Raises:
        ValueError: naming the first file that is wrong, and where and what it is.
    """
    for override in overrides:
        group, _, words = override.lstrip("+").partition("=")
        options = words.split(",")
        for option in options:
            for file in _find_files(group, option, folders):
                _check_file(file, group, folders, trail=[])
                if len(options) > 1:
                    _check_no_grid(file, option, override)


def name_place(
    message: str,
    overrides: Sequence[str],
    folders: Sequence[Path],
) -> str:
    """The message of a mistake, with the file and the line of the setting that it begins with.

    Where no file that the overrides select sets it, or an override does so as well, the message
    stays as it is.

    Args:
        message: one line, such as ``model.depth must be …``.
        overrides: see ``check_config_files``.
        folders: see ``check_config_files``.
    """
    files = _selected_files(overrides, folders)
    for group, file in files:
        message = message.removeprefix(f"{group}/{file.stem}: ")  # as Hydra names a file
    subject = SUBJECT.match(message)
    if subject is None:
        return message
    path = subject["choice"] or subject["path"]
    if path in overrides or any(_is_about(override, path, message) for override in overrides):
        return message
    for group, file in reversed(files):
        text = file.read_text(encoding="utf-8")
        prefix = "" if HEADER.search(text) else f"{group.replace('/', '.')}."
        for each, line in _find_places(yaml.compose(text, yaml.SafeLoader), prefix):
            if each == path:
                return f"{file}, line {line}: {message}"
    return message


def _is_about(
    override: str,
    path: str,
    message: str,
) -> bool:
    """Whether a message is about the value that an override gives to the setting ``path``."""
    key, _, value = override.lstrip("+~").partition("=")
    if value.startswith("{"):
        return path.startswith(f"{key}.")
    return key == path and any(each in message for each in value.split(","))


def _selected_files(
    overrides: Sequence[str],
    folders: Sequence[Path],
) -> list[tuple[str, Path]]:
    """The files that overrides select, and those that they include; each with its group.

    Of those that set the same setting, Hydra takes the last one. Files with a mistake that
    ``check_config_files`` finds are left out, with those that they include.
    """
    selected: dict[Path, str] = {}

    def select(group: str, option: str) -> None:
        for file in _find_files(group, option, folders):
            content = _read(file)
            if file in selected or not isinstance(content, dict):
                continue
            selected[file] = group
            for included in _included_options(file, group, content.get("defaults")):
                select(*included)
            selected[file] = selected.pop(file)  # which is after those that it includes

    for override in overrides:
        group, _, options = override.lstrip("+").partition("=")
        for option in options.split(","):
            with contextlib.suppress(ValueError):
                select(group, option)
    return [(group, file) for file, group in selected.items()]


def _find_places(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
    """The settings of a file by path, and the options that it chooses, each with its line.

    Args:
        node: the mapping that holds them.
        prefix: the path of the mapping, with a dot at its end.
    """
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        line = key.start_mark.line + 1
        path = f"{prefix}{key.value}"
        if path == "defaults" and isinstance(value, yaml.SequenceNode):
            yield from _find_choices(value)
        elif path == "hydra.sweeper.params":
            yield from _find_places(value, "")
        elif path == "hydra.sweeper.arms" and isinstance(value, yaml.MappingNode):
            for _, grid in value.value:
                yield from _find_places(grid, "")
        elif isinstance(value, yaml.MappingNode):
            yield from _find_places(value, f"{path}.")
        else:
            yield path, line


def _find_choices(defaults: yaml.SequenceNode) -> Iterator[tuple[str, int]]:
    """The groups that defaults choose, and their options as ``group=option``, with their lines."""
    for entry in defaults.value:
        if isinstance(entry, yaml.MappingNode):
            for key, option in entry.value:
                group = key.value.partition("@")[0].split(" ")[-1].lstrip("/")
                yield group, key.start_mark.line + 1
                yield f"{group}={option.value}", key.start_mark.line + 1


def _check_no_grid(
    file: Path,
    option: str,
    override: str,
) -> None:
    """A file with a grid is a sweep of its own, whose grid another sweep would pass over."""
    hydra = (_read(file) or {}).get("hydra") or {}
    sweeper = hydra.get("sweeper") or {}
    if sweeper.get("params") or sweeper.get("arms"):
        group = override.lstrip("+").partition("=")[0]
        raise ValueError(
            f"{override} must have one value, because {file} is a sweep of its own: "
            f"train {group}={option} by itself, or fathom reproduce trains one after the other"
        )


def _find_files(
    group: str,
    option: str,
    folders: Sequence[Path],
) -> Iterator[Path]:
    """The file of an option, which may not exist; Hydra itself takes the first one."""
    is_name = NAME.fullmatch(group) and NAME.fullmatch(option)
    if not is_name:
        return
    for folder in folders:
        if not (folder / group).is_dir():
            continue
        file = folder / group / f"{option.removesuffix('.yaml')}.yaml"
        if file.is_file():
            yield file
            return


def _check_file(
    file: Path,
    group: str,
    folders: Sequence[Path],
    trail: list[Path],
) -> None:
    """Checks a file and those that its defaults include.

    Args:
        file: the file.
        group: its config group.
        folders: where the files of the config groups are.
        trail: the files whose defaults have led to this one.
    """
    if file in trail:
        names = " → ".join(each.stem for each in [*trail, file])
        raise ValueError(f"{file} includes itself through its defaults: {names}")
    content = _read(file)
    text = file.read_text(encoding="utf-8")
    if text.startswith(BYTE_ORDER_MARK):
        raise ValueError(
            f"{file} must begin with its text, got a byte order mark: save it as UTF-8 without one"
        )
    try:
        check_readings(text, "" if HEADER.search(text) else group)
    except yaml.YAMLError as error:
        raise ValueError(f"{file}{describe_yaml_error(error)}") from None
    if group in GLOBAL_GROUPS and not HEADER.search(text):
        raise ValueError(f"{file} must begin with the line # @package _global_")
    if content is None:  # only comments
        return
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold settings such as {EXAMPLE}, got {_shown(content)}")
    _check_groups(file, content)
    _check_sweeper(file, content.get("hydra"))
    for included_group, option in _included_options(file, group, content.get("defaults")):
        for included in _find_files(included_group, option, folders):
            _check_file(included, included_group, folders, [*trail, file])


def _read(file: Path) -> Any:
    try:
        content = load_bounded(file.read_text(encoding="utf-8"), _Loader)
        json.dumps(content, default=str)
    except UnicodeDecodeError:
        raise ValueError(f"{file} must be text in UTF-8") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file}{describe_yaml_error(error)}") from None
    except (ValueError, RecursionError, TypeError):
        raise ValueError(f"{file} must hold settings such as {EXAMPLE}") from None
    return content


def describe_yaml_error(error: yaml.YAMLError) -> str:
    """The place and the reason of an error in a YAML file, to follow the file's name."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f": {str(error).splitlines()[0]}"
    mark = error.problem_mark
    problem = error.problem or "it is no YAML"
    if "'\\t'" in problem:
        problem = "a tab, indent with blanks"
    return f", line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _check_groups(file: Path, content: dict[Any, Any]) -> None:
    """A config group holds settings, and its option is chosen in the defaults."""
    groups = dict.fromkeys(path.partition(".")[0] for path in schema.setting_paths() if "." in path)
    for key, value in content.items():
        group, _, name = str(key).partition(".")
        if name and group in (*groups, "hydra"):
            raise ValueError(
                f"{file}: {key} must be written as {group}: {{{name}: {_shown(value)}}}"
            )
        if key not in (*groups, "hydra") or isinstance(value, dict):
            continue
        hint = ""
        if (resource_dir("conf") / group).is_dir():
            hint = f"; an option is chosen in the defaults, as in - override /{group}: NAME"
        raise ValueError(f"{file}: {group} must hold settings, got {_shown(value)}{hint}")


def _check_sweeper(file: Path, hydra: Any) -> None:
    """``hydra.sweeper.params`` is a grid, and ``hydra.sweeper.arms`` holds grids by name."""
    sweeper = (hydra or {}).get("sweeper")
    if not isinstance(sweeper, dict):
        return
    try:
        check_max_batch_size(sweeper.get("max_batch_size"))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    _check_grid(file, "hydra.sweeper.params", sweeper.get("params"))
    arms = sweeper.get("arms")
    if arms is not None and not isinstance(arms, dict):
        raise ValueError(
            f"{file}: hydra.sweeper.arms must hold grids by name, as in "
            f"short: {{model.depth: '2,4'}}, got {_shown(arms)}"
        )
    for name, grid in (arms or {}).items():
        _check_grid(file, f"hydra.sweeper.arms.{name}", grid)


def _check_grid(
    file: Path,
    path: str,
    grid: Any,
) -> None:
    if grid is None:
        return
    if not isinstance(grid, dict):
        raise ValueError(
            f"{file}: {path} must hold settings with their values, as in seed: 0,1, "
            f"got {_shown(grid)}"
        )
    for setting, values in grid.items():
        if setting in GLOBAL_GROUPS or _is_of_all_jobs(str(setting)):
            raise ValueError(
                f"{file}: {path}: {setting} has no effect on single runs of a sweep; "
                "set it outside of the grid"
            )
        if isinstance(values, dict | list):
            raise ValueError(
                f"{file}: {path}: {setting} must be values between commas, as in 0,1, "
                f"got {_shown(values)}"
            )


def _is_of_all_jobs(path: str) -> bool:
    """Whether a setting acts on a sweep as a whole."""
    return any(path == each or path.startswith(f"{each}.") for each in SETTINGS_OF_ALL_JOBS)


def _included_options(
    file: Path,
    group: str,
    defaults: Any,
) -> Iterator[tuple[str, str]]:
    """The options that the defaults of a file include, each with its group."""
    if defaults is None:
        return
    if not isinstance(defaults, list):
        raise ValueError(
            f"{file}: defaults must be a list, as in - override /skip: none, got {_shown(defaults)}"
        )
    chosen: list[str] = []
    for item in defaults:
        if isinstance(item, str):
            yield group, item.partition("@")[0]
        elif isinstance(item, dict) and len(item) == 1:
            ((key, option),) = item.items()
            name = str(key).partition("@")[0].split(" ")[-1]
            is_absolute = name.startswith("/")
            if not is_absolute and name.partition("/")[0] == "hydra":
                raise ValueError(
                    f"{file}: a group of Hydra needs a slash before it: "
                    f"- override /{name}: {_shown(option)}"
                )
            included_group = name.lstrip("/") if is_absolute else f"{group}/{name}"
            _check_choice(file, str(key), included_group, option)
            if included_group in chosen:
                raise ValueError(f"{file}: the defaults choose an option of {included_group} twice")
            chosen.append(included_group)
            for each in option if isinstance(option, list) else [option]:
                yield included_group, str(each)
        else:
            raise ValueError(
                f"{file}: an entry of the defaults must be as in - override /skip: none, "
                f"got {_shown(item)}"
            )


def _check_choice(
    file: Path,
    key: str,
    group: str,
    option: Any,
) -> None:
    """An entry of the defaults names an option of a group; settings are elsewhere in the file."""
    if not isinstance(option, str | list | None):
        raise ValueError(
            f"{file}: the defaults choose options by name, got {key}: {_shown(option)}; settings "
            "stand outside of the defaults"
        )
    if key.startswith("override") and group in GLOBAL_GROUPS:
        raise ValueError(f"{file}: {group} cannot be overridden; include a file as in - {option}")


def _shown(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, dict):
        return "settings"
    if isinstance(value, list):
        return "a list"
    text = "null" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
