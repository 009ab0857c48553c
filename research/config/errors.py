"""Explains a user's mistake in one line: what is wrong, where, what would be valid, and the nearest
name.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from research.config import schema
from research.config.config_files import describe_yaml_error
from research.config.suggestions import ALIASES, find_nearest, format_suggestion
from research.config.system_errors import explain_system_error
from research.config.validation import choices_of, describe_valid_values


class UsageError(SystemExit):
    """The request was wrong, and the message has been printed. ``except Exception`` misses it."""


class SweepEnded(Exception):
    """A sweep is over and its table has been shown. Carries the exit code through Hydra."""

    def __init__(self, exit_code: int):
        super().__init__(exit_code)
        self.exit_code = exit_code


def explain(error: BaseException) -> str | None:
    """One line for an error that the user's request caused; None for a defect of Fathom."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, MissingConfigException):
            return _explain_missing_option(cause)
    for cause in causes:
        if isinstance(cause, OmegaConfBaseException):
            return _explain_bad_value(cause, error)
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override} cannot be parsed: write setting=value, with quotes around a value "
            "that holds blanks, brackets or ="
        )
    message = _first_line(error)
    if message.startswith("Ambiguous value for argument"):
        override = message.split("'", 1)[1].rstrip("'")
        return f"{override} holds several values, which make a sweep: fathom train -m {override}"
    if message.startswith("Config group override must be"):
        return "a group takes the name of one of its options, such as skip=identity, no other value"
    twice = re.match(r"Multiple values for (\S+)\. |.* already at '(\S+)'", message)
    if twice:
        path = twice.group(1) or twice.group(2)
        return f"{path} is set already; write {path}=… without + to change it"
    if isinstance(error, HydraException | ValueError):
        return message
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem_mark.name}{describe_yaml_error(error)}"
    return explain_system_error(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _explain_missing_option(error: Any) -> str:
    """The line for an option that its group does not have."""
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        return _first_line(error)
    options = sorted(error.options or [])
    listed = ", ".join(options)
    if group == "data":
        listed += f"; another one of the TFDS catalogue is data=tfds data.dataset={option}"
    return f"there is no {group}={option}{format_suggestion(option, options)} (valid: {listed})"


def _explain_bad_value(cause: Any, error: BaseException) -> str:
    """The line for a setting that OmegaConf refuses.

    Args:
        cause: OmegaConf's error, which knows the setting.
        error: the error that Hydra raised from it, which may know more of the setting's path.
    """
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    path = cause.full_key or ""
    message = _first_line(cause)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        override = re.search(r"Could not override '([^']+)'", str(error))
        if override:
            path = max(path, override.group(1), key=len)
        return unknown_setting(path, cause.parent_node)
    path = path.partition("[")[0]  # the setting of an item in a list
    if "does not support deletion" in message:
        return f"{path} cannot be deleted; leave it out, and it has its default value"
    if any(name.startswith(f"{path}.") for name in schema.setting_paths()):
        return _explain_group(path)
    expected = re.search(r"expected one of \[(.*)\]", message)
    if expected:  # also of settings of Hydra
        names = expected.group(1).split(", ")
        hint = format_suggestion(str(cause.value), names)
        return f"{path} must be one of {', '.join(names)}, got {cause.value}{hint}"
    if path not in schema.setting_paths():
        return message if path in message else f"{path}: {message}"
    value = "null" if "not Optional" in message else str(cause.value)
    names = choices_of(path)
    hint = "" if value in names else format_suggestion(value, names)
    return f"{path} must be {describe_valid_values(path)}, got {value or 'an empty value'}{hint}"


def _explain_group(group: str) -> str:
    """The line for a group of settings that was set to a value."""
    settings = [name for name in schema.setting_paths() if name.startswith(f"{group}.")]
    return f"{group} is a group of settings and has no value; set {_joined(settings, 'or')}"


def unknown_setting(path: str, option: Any = None) -> str:
    """The line for a setting that does not exist, or not for the option that was chosen.

    Args:
        path: the dotted path of the setting.
        option: the chosen option of the setting's group, where there is one.
    """
    if path.startswith("hydra."):
        return f"{path} is not a setting of Hydra here; fathom train --cfg hydra lists them all"
    group = path.rpartition(".")[0]
    choice = _choice(group, option)
    options = schema.options_with(path)
    if options:
        return f"{path} is not a setting of {choice}, only of {_joined(options, 'and')}"
    if path in schema.setting_paths():  # the group was replaced by something else
        return _explain_group(group)
    hint = _nearest_setting(path)
    settings = _settings_of_choice(group, choice)
    if not settings:
        return f"{path} is not a setting{hint}"
    return f"{path} is not a setting{hint} ({choice} has: {', '.join(settings)})"


def _choice(group: str, option: Any) -> str:
    """The option as it is chosen on the command line, such as ``skip=identity``."""
    if group not in schema.OPTIONS:
        return group
    kind = getattr(option, schema.selector_of(group), None)
    if kind is None:
        return f"the chosen {group}"
    return f"{group}={kind.name}"


def _settings_of_choice(group: str, choice: str) -> list[str]:
    """The names of the settings that a choice has, or of all settings of the group."""
    names = []
    for item in schema.iter_declared():
        is_of_group = item.path.rpartition(".")[0] == group != ""
        is_selector = item.declared is None
        is_of_choice = not item.options or choice in item.options or "=" not in choice
        name = item.path.rpartition(".")[2]
        if is_of_group and is_of_choice and not is_selector and name not in names:
            names.append(name)
    return names


def _nearest_setting(path: str) -> str:
    """``; did you mean X?`` for the setting that is most similar to ``path``.

    A setting of the same name comes first, then one of the same group, then any other.
    """
    group, _, name = path.rpartition(".")
    name = ALIASES.get(name, name)
    paths = schema.setting_paths()
    namesakes = [each for each in paths if each.rpartition(".")[2] == name]
    if namesakes:
        return format_suggestion(path, namesakes) or f"; did you mean {namesakes[0]}?"
    siblings = []
    for each in paths:
        if group and each.startswith(f"{group}."):
            siblings.append(each.rpartition(".")[2])
    if siblings:
        sibling = find_nearest(name, siblings)
        return f"; did you mean {group}.{sibling}?" if sibling else ""
    groups = [each.partition(".")[0] for each in paths]
    return format_suggestion(path.lower(), [*groups, *paths])


def _joined(words: Sequence[str], conjunction: str) -> str:
    """The words with commas, and a conjunction before the last."""
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"
