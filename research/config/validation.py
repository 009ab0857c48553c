"""Whether a configuration makes sense by itself: ranges of numbers, and settings that have an
effect.
"""

import dataclasses
import enum
import math
import operator
import re
from collections.abc import Iterator, Mapping
from typing import Any

from research.config import options, schema
from research.config.compatibility import check_compatibility
from research.config.fields import BOUNDS, Setting, settings_of, to_plain

NAME = re.compile(r"[\w.,=+-]*\w[\w.,=+-]*")


def check(config: schema.Config) -> None:
    """Checks everything that can be known without looking at the data.

    Raises:
        ValueError: naming the first setting that is wrong, what would be valid, and its value.
    """
    for item in schema.iter_fields(config):
        if item.declared is not None:
            _check_range(item.path, item.value, item.declared)
    if config.name is not None and not NAME.fullmatch(config.name):
        raise ValueError(
            f"name must be a folder's name of letters, digits and . , = + - _, got {config.name}"
        )
    shape = getattr(config.data, "shape", (1,))
    if not shape or min(shape) < 1:
        raise ValueError(f"data.shape must be {valid('data.shape')}, got {list(shape)}")
    for name in config.measure.inspect:
        if name not in options.INSPECTIONS:
            known = ", ".join(options.INSPECTIONS)
            raise ValueError(f"measure.inspect must hold some of {known}, got {name}")
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
        if not getattr(operator, kind)(value, bound):
            raise ValueError(f"{path} must be {valid(path)}, got {value}")


def _check_selectors(config: schema.Config) -> None:
    """An option is chosen as a group, not by the field that names it."""
    for group, classes in schema.OPTIONS.items():
        option = getattr(config, group)
        selector = schema.selector_of(group)
        name = getattr(option, selector).name
        if type(option) is not classes[name]:
            raise ValueError(f"{group}.{selector} cannot be set: choose {group}={name} instead")


def _check_effects(config: schema.Config) -> None:
    """A setting that has no effect must not be set."""
    for group, option in _groups(config):
        defaults = {item.name: item.default for item in dataclasses.fields(option)}
        for name, declared in settings_of(option):
            value = getattr(option, name)
            if value != defaults[name] and not declared.acts(option):
                raise ValueError(_without_effect(group, name, value, declared))


def _groups(config: schema.Config) -> Iterator[tuple[str, Any]]:
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if schema.is_group(value):
            yield item.name, value


def _without_effect(
    group: str,
    name: str,
    value: Any,
    declared: Setting,
) -> str:
    needed = acting_conditions(group, declared)
    return f"{group}.{name} has an effect only with {needed}, got {group}.{name}={to_plain(value)}"


def acting_conditions(group: str, declared: Setting) -> str:
    """The settings that a setting needs to have an effect; empty where it needs none."""
    conditions = []
    for other, values in declared.only_with.items():
        wanted = [str(to_plain(each)) for each in values]
        conditions.append(f"{group}.{other}={' or '.join(wanted)}")
    if declared.needs:
        conditions.append(f"{group}.{declared.needs}")
    return " and ".join(conditions)


def check_choices(choices: Mapping[str, str | None], config: schema.Config) -> None:
    """Checks the options that were chosen for the groups.

    Args:
        choices: the name of the option of each group of which one option was chosen.
        config: the configuration that they gave.

    Raises:
        ValueError: several options of a group were chosen, which Hydra would merge, or one option
            contradicts another.
    """
    for group in schema.OPTIONS:
        if group not in choices:
            raise ValueError(
                f"{group} must be one option; several make a sweep, fathom train -m {group}=…,…"
            )
    activation = config.activation.kind.name
    if choices["model"] == "linear" and activation != "linear":
        raise ValueError(
            f"model must be mlp (linear is an mlp without activation), got linear and {activation}"
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


NOUNS = {
    "tuple[str": f"a list of some of {', '.join(options.INSPECTIONS)}, in brackets",
    "tuple[int": "a list of whole numbers ≥ 1",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
}


def valid(path: str) -> str:
    """What the setting at ``path`` takes, in words.

    >>> valid("model.depth")
    'a whole number ≥ 1'
    """
    declared = next(item for item in schema.iter_declared() if item.path == path)
    default = declared.field.default
    if isinstance(default, enum.Enum):
        return f"one of {', '.join(option.name for option in type(default))}"
    written = _type_in_words(declared.field.type)
    noun = next((NOUNS[name] for name in NOUNS if name in written), written)
    if declared.declared is None:
        return noun
    bounds = [f"{BOUNDS[kind]} {bound:.10g}" for kind, bound in declared.declared.bounds.items()]
    return f"{noun} {' and '.join(bounds)}".strip()


def _type_in_words(written: Any) -> str:
    return (
        written.__name__
        if isinstance(written, type) and not hasattr(written, "__args__")
        else str(written)
    )
