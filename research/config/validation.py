"""Checks a configuration by itself: ranges of numbers, and settings that have no effect."""

import dataclasses
import enum
import functools
import math
import operator
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from research.config import options, schema
from research.config.compatibility import check_compatibility
from research.config.fields import BOUNDS, Setting, settings_of, to_plain, written
from research.config.layer_formats import PATH, parse_layer_formats
from research.config.numbers import LEAST_FLOAT32, LEAST_FLOAT64
from research.config.suggestions import format_suggestion

MAX_NAME_BYTES = 200
MAX_TAG_LENGTH = 64  # W&B takes no longer ones
MAX_WHOLE = 2**31 - 1  # the largest whole number of 32 bits, of which shapes and steps consist
NAME = re.compile(r"[\w.,=+-]*\w[\w.,=+-]*")


def check_config(config: schema.Config) -> None:
    """Checks everything that can be known without looking at the data.

    Raises:
        ValueError: naming the first setting that is wrong, what would be valid, and its value.
    """
    for item in schema.iter_fields(config):
        if item.declared is not None:
            _check_range(item.path, item.value, item.declared)
    _check_underflow(config)
    _check_name(config.name)
    _check_tags(config.tags)
    _check_lists(config)
    _check_selectors(config)
    _check_effects(config)
    check_compatibility(config)
    _check_mesh(config.mesh)


def _check_range(
    path: str,
    value: Any,
    declared: Setting,
) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path} must be finite, got {value}")
    if value is None:
        return
    for kind, bound in declared.bounds.items():
        is_in_range = getattr(operator, kind)
        if not is_in_range(value, bound):
            raise ValueError(f"{path} must be {describe_valid_values(path)}, got {value}")
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if is_whole and value > MAX_WHOLE and "lt" not in declared.bounds:
        raise ValueError(f"{path} must be a whole number ≤ {MAX_WHOLE}, got {value}")


def _check_underflow(config: schema.Config) -> None:
    """A number that is not 0 must not become 0 in the format that the program reads it in."""
    is_wide = config.precision.kind is options.PrecisionKind.float64
    least = LEAST_FLOAT64 if is_wide else LEAST_FLOAT32
    for item in schema.iter_fields(config):
        is_traced = item.declared is not None and item.declared.traced
        if is_traced and isinstance(item.value, float) and 0 < abs(item.value) < least:
            hint = "" if is_wide else " (precision=float64 has smaller numbers)"
            raise ValueError(
                f"{item.path} must be 0 or ≥ {least:.2g}, because the network would read it as 0"
                f"{hint}, got {item.value}"
            )


def _check_name(name: str | None) -> None:
    num_bytes = len((name or "").encode())
    if num_bytes > MAX_NAME_BYTES:
        raise ValueError(
            f"name must have at most {MAX_NAME_BYTES} bytes, as a folder has, got {num_bytes}"
        )
    if name is not None and not NAME.fullmatch(name):
        raise ValueError(
            "name must be the name of a folder, of letters, digits and . , = + - _, "
            f"got {name or 'an empty value'}"
        )
    if name is not None and name.startswith("-"):
        raise ValueError(
            f"name must not begin with -, because commands read that as an option, got {name}"
        )


def _check_tags(tags: tuple[str, ...]) -> None:
    for tag in tags:
        if not tag.strip() or len(tag) > MAX_TAG_LENGTH:
            raise ValueError(
                f"tags must hold words of 1 to {MAX_TAG_LENGTH} characters, got {tag or 'none'}"
            )


def _check_lists(config: schema.Config) -> None:
    shape = getattr(config.data, "shape", (1,))
    if not shape or min(shape) < 1:
        raise ValueError(
            f"data.shape must be {describe_valid_values('data.shape')}, got {list(shape)}"
        )
    boundaries = config.optimizer.boundaries
    if any(boundary < 1 for boundary in boundaries) or sorted(set(boundaries)) != [*boundaries]:
        raise ValueError(
            "optimizer.boundaries must be a list in brackets of whole numbers ≥ 1 in ascending "
            f"order, got {list(boundaries)}"
        )
    _check_names("measure.inspect", config.measure.inspect, options.INSPECTIONS)
    _check_names("diagnose.stop", config.diagnose.stop, options.STOP_KINDS)
    parse_layer_formats(config.precision.layers)


def _check_names(
    path: str,
    names: Sequence[str],
    known: Sequence[str],
) -> None:
    """Every name of a list is known, and none is there twice."""
    for name in names:
        if name not in known:
            hint = format_suggestion(str(name), known)
            raise ValueError(f"{path} must hold some of {', '.join(known)}, got {name}{hint}")
        if names.count(name) > 1:
            raise ValueError(f"{path} must hold each name once, got {name} again")


def _check_selectors(config: schema.Config) -> None:
    """An option with settings of its own is chosen as a group, not by the field that names it."""
    for group, classes in schema.OPTIONS.items():
        option = getattr(config, group)
        selector = schema.selector_of(group)
        name = getattr(option, selector).name
        if type(option) is not classes[name]:
            raise ValueError(
                f"{group}.{selector} cannot be set to {name} directly: write {group}={name}, "
                "which also selects its settings"
            )


def _check_effects(config: schema.Config) -> None:
    """A setting that has no effect must not be set."""
    for group, option in _options_of(config):
        defaults = {item.name: item.default for item in dataclasses.fields(option)}
        for name, declared in settings_of(option):
            is_set = getattr(option, name) != defaults[name]
            if is_set and not declared.has_effect(option):
                raise ValueError(describe_missing_effect(group, option, name, declared))


def _options_of(config: schema.Config) -> Iterator[tuple[str, Any]]:
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if schema.is_group(value):
            yield item.name, value


def describe_missing_effect(
    group: str,
    option: Any,
    name: str,
    declared: Setting,
) -> str:
    """The line for a setting that is set but has no effect.

    Args:
        group: the group of the setting.
        option: the option that was chosen.
        name: the name of the setting.
        declared: what its field declares.
    """
    present = [written(getattr(option, other)) for other in _needed_values(group, declared)]
    return (
        f"{group}.{name}={written(getattr(option, name))} has no effect: "
        f"it needs {describe_conditions(group, declared)}, got {' and '.join(present)}"
    )


def describe_conditions(group: str, declared: Setting) -> str:
    """The settings that a setting needs to have an effect; empty where it needs none."""
    needed = _needed_values(group, declared)
    return " and ".join(f"{group}.{other}={value}" for other, value in needed.items())


def _needed_values(group: str, declared: Setting) -> dict[str, str]:
    """What other settings of the group must be, in words."""
    needed = {}
    for other, values in declared.only_with.items():
        needed[other] = " or ".join(str(to_plain(value)) for value in values)
    if declared.needs:
        first, *others = declared.needs
        default = schema.default_of(f"{group}.{first}")
        example = "[…]" if isinstance(default, list) else "true"
        value = "…" if default is None else example
        needed[first] = " or ".join([value, *(f"{group}.{other}={value}" for other in others)])
    return needed


def check_given_settings(
    group: str,
    option: Any,
    given: Mapping[str, Any],
) -> None:
    """Checks settings that a program gave for one option: their types, ranges and effects.

    Args:
        group: the group of the option.
        option: the option that they gave.
        given: the values by name; all of them are settings of the option.

    Raises:
        ValueError: naming the first setting that is wrong, what would be valid, and its value.
    """
    for name, declared in settings_of(option):
        if name not in given:
            continue
        path = f"{group}.{name}"
        if not _has_type(path, given[name]):
            raise ValueError(f"{path} must be {describe_valid_values(path)}, got {given[name]!r}")
        _check_range(path, getattr(option, name), declared)
        if not declared.has_effect(option):
            raise ValueError(describe_missing_effect(group, option, name, declared))


def _has_type(path: str, value: Any) -> bool:
    """Whether a value is of the type of a setting; a name stands for a member of an enumeration."""
    if _members(path):
        return value in _members(path)
    annotation = _declared(path).field.type
    if value is None:
        return isinstance(annotation, types.UnionType)
    type_ = _type_without_none(annotation)
    if type_ is bool or isinstance(value, bool):
        return type_ is bool and isinstance(value, bool)
    return isinstance(value, int | float if type_ is float else type_)


def check_choices(
    choices: Mapping[str, str | None],
    composed: Mapping[Any, Any],
    config: schema.Config,
) -> None:
    """Checks the options that were chosen for the groups.

    Args:
        choices: the name of the option of each group of which one option was chosen.
        composed: the composed configuration, which lacks the groups that were deleted.
        config: the configuration that they gave.

    Raises:
        ValueError: no option or several options of a group were chosen, or one option contradicts
            another.
    """
    for group, classes in schema.OPTIONS.items():
        if group not in composed:
            raise ValueError(f"{group} cannot be deleted; leave it out, and it has its default")
        if group not in choices:  # Hydra would merge the options
            raise ValueError(
                f"{group} must be one option; for a sweep over several: fathom train -m {group}=…,…"
            )
        folder, _, option = (choices[group] or "").rpartition("/")
        if folder:
            hint = format_suggestion(option, classes)
            raise ValueError(f"there is no {group}={choices[group]}{hint}")
    activation = config.activation.kind.name
    if choices["model"] == "linear" and activation != "linear":
        raise ValueError(
            f"model must be mlp with activation={activation} (model=linear is an mlp without "
            "activation), got linear"
        )


def _check_mesh(mesh: options.Mesh) -> None:
    """Without a cluster manager every process needs all three settings."""
    if not isinstance(mesh, options.DistributedMesh):
        return
    missing = [name for name, _ in settings_of(mesh) if getattr(mesh, name) is None]
    if 0 < len(missing) < 3:
        raise ValueError(
            f"mesh.{missing[0]} must be given too: a process needs to know the address of the "
            "first process, how many there are, and which one it is"
        )
    if mesh.process is not None and mesh.processes is not None and mesh.process >= mesh.processes:
        raise ValueError(
            f"mesh.process must be < mesh.processes={mesh.processes}, got {mesh.process}"
        )
    if mesh.coordinator is not None and not re.fullmatch(r".+:\d+", mesh.coordinator):
        raise ValueError(
            f"mesh.coordinator must be host:port of the first process, got {mesh.coordinator}"
        )


LISTS_OF_LAYERS = (PATH,)
LISTS_OF_NAMES = ("measure.inspect", "diagnose.stop")
NOUNS = {
    tuple[str, ...]: "a list in brackets of words",
    tuple[int, ...]: "a list in brackets of whole numbers ≥ 1",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
}


def describe_valid_values(path: str) -> str:
    """What the setting at ``path`` takes, in words.

    >>> describe_valid_values("model.depth")
    'a whole number ≥ 1'
    """
    choices = _members(path)
    if choices:
        return f"one of {', '.join(choices)}"
    if path in LISTS_OF_NAMES:
        return f"a list in brackets of some of {', '.join(choices_of(path))}"
    if path in LISTS_OF_LAYERS:
        return "a list in brackets of layers and formats such as 17-18:float32"
    item = _declared(path)
    words = [NOUNS[_type_without_none(item.field.type)]]
    if item.declared is not None:
        bounds = [f"{BOUNDS[kind]} {bound:.10g}" for kind, bound in item.declared.bounds.items()]
        words.append(" and ".join(bounds))
    return " ".join(words).strip()


def choices_of(path: str) -> list[str]:
    """The names that the setting at ``path`` takes, alone or in a list; none where it takes others.

    >>> choices_of("loss.kind")
    ['cross_entropy', 'mse']
    """
    if path == "measure.inspect":
        return list(options.INSPECTIONS)
    if path == "diagnose.stop":
        return list(options.STOP_KINDS)
    return list(_members(path))


@functools.cache
def _members(path: str) -> tuple[str, ...]:
    default = _declared(path).field.default
    if not isinstance(default, enum.Enum):
        return ()
    return tuple(member.name for member in type(default))


def _declared(path: str) -> schema.DeclaredSetting:
    return next(item for item in schema.iter_declared() if item.path == path)


def _type_without_none(annotation: Any) -> Any:
    """``int`` for ``int | None``."""
    if not isinstance(annotation, types.UnionType):
        return annotation
    members = [member for member in typing.get_args(annotation) if member is not type(None)]
    return members[0]


def describe_wrong_name(path: str, value: str) -> str:
    """The line for a setting that is one of several names, and was set to something else."""
    return describe_name_not_valid(path, choices_of(path), value)


def describe_name_not_valid(
    path: str,
    names: Sequence[str],
    value: str,
) -> str:
    """The line for a value that is none of the names that a setting takes."""
    hint = suggest_numeric_setting(path, value) or format_suggestion(value, names)
    return f"{path} must be one of {', '.join(names)}, got {value}{hint}"


def suggest_numeric_setting(path: str, value: str) -> str:
    """For a number in place of a name: the setting that takes the number, and what it needs.

    ``optimizer.clip=1.0`` leads to ``optimizer.clip=global_norm optimizer.clip_threshold=1.0``.
    """
    try:
        float(value)
    except ValueError:
        return ""
    group, _, name = path.rpartition(".")
    for item in schema.iter_declared():
        is_of_group = item.path.startswith(f"{group}.")
        if is_of_group and item.declared is not None and name in item.declared.only_with:
            first = item.declared.only_with[name][0].name
            return f"; did you mean {path}={first} {item.path}={value}?"
    return ""
