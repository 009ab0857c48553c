"""The settings as rows of a table, for ``fathom train --help`` and the reference page.

Everything comes from the dataclasses and from ``conf/``: a setting and an option are described
where they are declared.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from research.config import schema
from research.config.fields import Setting, to_plain
from research.config.hydra_config import resource_dir
from research.config.validation import describe_conditions, describe_valid_values

GLOBAL_PACKAGE = "# @package _global_"
# If more options than this lack a setting, the options that have it are listed instead.
MAX_EXCEPTIONS = 3


@dataclass(frozen=True)
class OptionRow:
    """One option of a group, such as ``skip=scaled``.

    Attributes:
        name: how it is chosen, such as ``skip=scaled``.
        meaning: the comment of its file in ``conf/``.
        values: the settings whose defaults it changes, by path, and the options of other groups
            that it chooses, by group.
    """

    name: str
    meaning: str
    values: dict[str, Any]


@dataclass(frozen=True)
class SettingRow:
    """One setting.

    Attributes:
        path: its dotted path.
        options: the options that have it, such as ``skip=scaled``; empty where all have it.
        default: its default value, as it is written on the command line.
        other_defaults: the defaults of some options, by option, where they differ.
        valid: what it accepts, in words.
        is_traced: whether runs that differ in it share one compiled program.
        is_switch: whether 0 and other values are two programs.
        condition: which other settings it needs to have an effect; empty where none.
        meaning: what it does.
    """

    path: str
    options: tuple[str, ...]
    default: str
    other_defaults: dict[str, str]
    valid: str
    is_traced: bool
    is_switch: bool
    condition: str
    meaning: str


@dataclass(frozen=True)
class SettingGroup:
    """A group of the configuration, with its options and its settings.

    Attributes:
        name: the group; empty for settings that belong to none.
        meaning: what it configures.
        default: the option that is chosen by default; empty for a group without options.
        options: its options.
        settings: its settings.
    """

    name: str
    meaning: str
    default: str
    options: tuple[OptionRow, ...]
    settings: tuple[SettingRow, ...]


def setting_groups() -> list[SettingGroup]:
    """Every setting that can be set, by group, in the order of ``Config``."""
    defaults = _default_options()
    options = {}
    all_options = []
    for group in defaults:
        options[group] = _option_rows(group)
        all_options += options[group]
    settings = _setting_rows(all_options)
    groups = [SettingGroup("", "", "", (), tuple(settings.pop("")))]
    for item in dataclasses.fields(schema.Config):
        if not schema.is_group(item.default):
            continue
        group = SettingGroup(
            name=item.name,
            meaning=_group_meaning(item.default),
            default=defaults.get(item.name, ""),
            options=tuple(options.get(item.name, ())),
            settings=tuple(settings.get(item.name, ())),
        )
        groups.append(group)
    return groups


def _default_options() -> dict[str, str]:
    """The option that ``conf/config.yaml`` chooses for each group that a run always has."""
    root = yaml.safe_load((resource_dir("conf") / "config.yaml").read_text(encoding="utf-8"))
    chosen = {}
    for entry in root["defaults"]:
        if not isinstance(entry, dict):
            continue
        ((group, option),) = entry.items()
        if isinstance(option, list):
            (option,) = option
        if option is not None and not group.startswith("override "):
            chosen[group] = option
    return chosen


def _group_meaning(option: Any) -> str:
    """The summary of the dataclass from which all options of the group are derived."""
    base = type(option).__mro__[-2]  # the last class is object
    return (base.__doc__ or "").strip().split("\n")[0]


def _option_rows(group: str) -> list[OptionRow]:
    """The options of a group in the order of the code, then those that ``conf/`` adds."""
    folder = resource_dir("conf") / group
    files = {}
    for file in sorted(folder.glob("*.yaml")):
        files[file.stem] = file
    names = dict.fromkeys([*schema.OPTIONS.get(group, ()), *files])
    return [_option_row(group, name, files[name]) for name in names]


def _option_row(
    group: str,
    name: str,
    file: Path,
) -> OptionRow:
    text = file.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    chosen = _chosen_options(content.pop("defaults", []))
    prefix = "" if text.startswith(GLOBAL_PACKAGE) else f"{group}."
    return OptionRow(
        name=f"{group}={name}",
        meaning=_comment(text),
        values=chosen | dict(_flatten(content, prefix)),
    )


def _flatten(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The values of nested dictionaries by dotted path."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _comment(text: str) -> str:
    """The comment at the top of a file, in one line."""
    words = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if line != GLOBAL_PACKAGE:
            words.append(line.lstrip("# "))
    return " ".join(words)


def _chosen_options(defaults: Sequence[Any]) -> dict[str, str]:
    """The options of other groups that a list of defaults chooses."""
    chosen = {}
    for entry in defaults:
        if isinstance(entry, dict):
            ((group, option),) = entry.items()
            chosen[group.removeprefix("override /")] = option
    return chosen


def _setting_rows(options: Sequence[OptionRow]) -> dict[str, list[SettingRow]]:
    """The rows of all settings, by group."""
    rows: dict[str, list[SettingRow]] = {}
    for declared in schema.iter_declared():
        if declared.declared is None:  # the field that names the option: the group itself is set
            continue
        group = declared.path.rpartition(".")[0]
        row = _setting_row(group, declared, declared.declared, options)
        _add_row(rows.setdefault(group, []), row)
    return rows


def _add_row(rows: list[SettingRow], row: SettingRow) -> None:
    """Adds a row, or joins it with the row of other options that have the same setting."""
    for index, other in enumerate(rows):
        joined = dataclasses.replace(
            row,
            options=other.options + row.options,
            other_defaults=other.other_defaults | row.other_defaults,
        )
        same = dataclasses.replace(
            joined, options=other.options, other_defaults=other.other_defaults
        )
        if same == other:
            rows[index] = joined
            return
    rows.append(row)


def _setting_row(
    group: str,
    declared: schema.DeclaredSetting,
    setting: Setting,
    options: Sequence[OptionRow],
) -> SettingRow:
    default = format_value(declared.field.default)
    return SettingRow(
        path=declared.path,
        options=declared.options,
        default=default,
        other_defaults=dict(_other_defaults(declared, default, options)),
        valid=describe_valid_values(declared.path),
        is_traced=setting.traced,
        is_switch=setting.switch,
        condition=describe_conditions(group, setting),
        meaning=setting.meaning,
    )


def _other_defaults(
    declared: schema.DeclaredSetting,
    default: str,
    options: Sequence[OptionRow],
) -> Iterator[tuple[str, str]]:
    group = declared.path.partition(".")[0]
    for option in options:
        if declared.path not in option.values:
            continue
        of_this_group = option.name.startswith(f"{group}=")
        if of_this_group and declared.options and option.name not in declared.options:
            continue
        value = format_value(option.values[declared.path])
        if value != default:
            yield option.name, value


def options_in_words(group: SettingGroup, row: SettingRow) -> str:
    """Which options of its group have a setting; empty where all have it."""
    if not row.options:
        return ""
    having = []
    missing = []
    for name in schema.OPTIONS.get(group.name, ()):
        if f"{group.name}={name}" in row.options:
            having.append(name)
        else:
            missing.append(name)
    if len(missing) <= MAX_EXCEPTIONS < len(having):
        return f"all but {', '.join(missing)}"
    return ", ".join(having)


def format_value(value: Any) -> str:
    """A value as it is written on the command line.

    >>> format_value(None), format_value(True), format_value((64,)), format_value("train")
    ('null', 'true', '[64]', 'train')
    """
    value = to_plain(value)
    return value if isinstance(value, str) else json.dumps(value)
