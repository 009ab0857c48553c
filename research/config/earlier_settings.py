"""Reads the settings that an earlier version recorded as the present version understands them.

It does in a millisecond what ``hydra_config.read_recorded_config`` does with OmegaConf, and it
checks nothing.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from research.config.fields import to_plain
from research.config.schema import (
    OPTIONS,
    Config,
    is_group,
    make_option,
    selector_of,
    setting_paths,
)

FLOATS = (float, float | None)
TEXTS = (str, str | None)


def to_present_config(recorded: Mapping[str, Any]) -> Config | None:
    """The configuration of a run of an earlier version.

    A setting or a group that the record lacks is at its default. A setting that the recorded option
    does not have any more, but another option has, did nothing in the run, so it is left out.

    Args:
        recorded: the recorded settings by dotted path.

    Returns:
        None where an option, a setting or a choice is recorded that there is no longer.
    """
    if not set(setting_paths()).issuperset(recorded):
        return None
    values: dict[str, Any] = {}
    try:
        for item in dataclasses.fields(Config):
            if is_group(item.default):
                values[item.name] = _to_option(item.name, item.default, recorded)
            elif item.name in recorded:
                values[item.name] = _to_value(item, recorded[item.name])
    except KeyError:  # of a name that there is no longer
        return None
    return Config(**values)


def complete_settings(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run of an earlier version with those that its record lacks.

    Args:
        recorded: the recorded settings by dotted path.

    Returns:
        All settings of the run's options as JSON values, like those that are recorded today; where
        ``to_present_config`` gives none, what is recorded.
    """
    config = to_present_config(recorded)
    if config is None:
        return dict(recorded)
    settings = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if not is_group(value):
            settings[item.name] = to_plain(value)
            continue
        for field in dataclasses.fields(value):
            settings[f"{item.name}.{field.name}"] = to_plain(getattr(value, field.name))
    return settings


def _to_option(
    group: str,
    default: Any,
    recorded: Mapping[str, Any],
) -> Any:
    """The option of a group with its recorded values.

    Raises:
        KeyError: there is no such option or choice.
    """
    option = default
    name = recorded.get(f"{group}.{selector_of(group)}")
    if group in OPTIONS and name is not None:
        option = make_option(group, name)
    values = {}
    for item in dataclasses.fields(option):
        path = f"{group}.{item.name}"
        if path in recorded:
            values[item.name] = _to_value(item, recorded[path])
    return dataclasses.replace(option, **values)


def _to_value(item: dataclasses.Field, value: Any) -> Any:
    """A recorded value as a field of the configuration holds it."""
    if isinstance(item.default, enum.Enum):
        return type(item.default)[value]
    if isinstance(value, list):
        return tuple(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number and item.type in FLOATS:
        return float(value)
    if is_number and item.type in TEXTS:  # name=2026 is a number to YAML
        return str(value)
    return value
