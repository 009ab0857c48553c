"""Refuses what YAML reads as something else than what is written, such as ``010`` for 8.

OmegaConf reads YAML 1.1, in which a number that begins with 0 is octal, ``1:30`` is 90, and ``no``
and ``off`` are false.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from omegaconf._utils import get_yaml_loader

from research.config.fields import written
from research.config.schema import enum_paths, paths_of_type, text_paths
from research.config.validation import describe_wrong_name

PREFIXES_OF_INTEGERS = ("0x", "0b")
DEFAULTS = "defaults"
GRIDS = ("hydra.sweeper.params", "hydra.sweeper.arms")  # values are overrides


class _Scalar(NamedTuple):
    """A value of a YAML text, and the path of the setting that it is for."""

    path: str
    node: yaml.ScalarNode


def check_readings(text: str, prefix: str) -> None:
    """Checks that the values of a YAML text mean what they look like.

    Args:
        text: a YAML text that is valid.
        prefix: the group that its settings belong to; empty for those of all groups.

    Raises:
        yaml.YAMLError: naming the value and its readings.
    """
    loader = _loader_class()(text)
    try:
        node = loader.get_single_node()
        for scalar in _scalars(node, prefix, set()):
            if scalar.node.style is None:
                problem = _find_problem(scalar, loader.construct_object(scalar.node))
                if problem:
                    raise yaml.constructor.ConstructorError(
                        problem=problem, problem_mark=scalar.node.start_mark
                    )
    finally:
        loader.dispose()


@functools.cache
def _loader_class() -> Any:
    return get_yaml_loader()


def _scalars(
    node: yaml.Node | None,
    path: str,
    seen: set[int],
) -> Iterator[_Scalar]:
    """The values below a node; those that an alias repeats are there once."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        yield _Scalar(path, node)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _scalars(item, path, seen)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{path}.{key.value}" if path else str(key.value)
            yield from _scalars(value, inner, seen)


def _find_problem(scalar: _Scalar, value: Any) -> str:
    """What is wrong with the reading of a value; empty where nothing is."""
    text = scalar.node.value
    if text == "???":
        return "??? stands for a value that must be given"
    quoted = f"'{text}'"
    is_override = scalar.path.startswith(GRIDS)
    path = _setting_of(scalar.path) if is_override else scalar.path
    if isinstance(value, bool):
        is_meant = text.lower() == written(value) or path in paths_of_type(bool)
        is_text = path in text_paths() or scalar.path.startswith(DEFAULTS)
        if is_meant and not is_text:
            return ""
        return f"{text} is read as {written(value)}, write {quoted} for the word"
    if not isinstance(value, int | float):
        return ""
    if path in enum_paths():
        return describe_wrong_name(path, text)
    if path in text_paths() and str(value) != text:
        return f"{text} is read as the number {value}, write {quoted} for the text"
    decimal = _read_decimal(text)
    if decimal is None:
        return f"{text} is read as the number {value}, write that, or {quoted} for the text"
    if decimal != value and not math.isnan(value):
        return f"{text} could be {value}, as YAML reads it, or {decimal}, write one of them"
    return ""


def _setting_of(path: str) -> str:
    """The setting that a value in a grid of a sweep is for."""
    params, arms = GRIDS
    if path.startswith(params):
        return path.removeprefix(f"{params}.")
    _, _, setting = path.removeprefix(f"{arms}.").partition(".")
    return setting


def _read_decimal(text: str) -> int | float | None:
    """The number that a text is in decimal notation, or behind ``0x`` or ``0b``; None for none."""
    plain = text.lower()
    if plain.lstrip("+-").startswith(PREFIXES_OF_INTEGERS):
        return int(plain, 0)
    if plain.lstrip("+-") in (".inf", ".nan"):
        return float(plain.replace(".", ""))
    for read in (int, float):
        try:
            return read(plain)
        except ValueError:
            continue
    return None
