"""Reads YAML quickly, and refuses short texts that stand for very much."""

from typing import Any

import yaml

try:
    from yaml import CSafeLoader as FastSafeLoader
except ImportError:  # PyYAML was built without its parser in C
    from yaml import SafeLoader as FastSafeLoader

# The parser in C ends the process where a text is nested too deeply, which a short text is not.
MAX_FAST_CHARACTERS = 8_000
MAX_VALUES = 100_000  # a configuration has a few hundred


class _BoundedMixin:
    """Refuses a text whose aliases, such as ``*a``, repeat their values very many times.

    Nine lines can stand for 10⁹ values, which would be written out sooner or later.
    """

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()  # type: ignore[misc]
        if node is not None:
            _count_values(node, {})
        return node


class BoundedLoader(_BoundedMixin, yaml.SafeLoader):
    """Reads YAML of any size in Python."""


class _FastLoader(_BoundedMixin, FastSafeLoader):
    """Reads YAML with the parser that is written in C, where PyYAML has it."""


def parse_yaml(text: str) -> Any:
    """The content of a YAML text, as ``yaml.safe_load`` returns it, in a tenth of the time.

    Raises:
        yaml.YAMLError: the text is not YAML, is nested too deeply, or holds too many values.
    """
    loader = BoundedLoader if len(text) > MAX_FAST_CHARACTERS else _FastLoader
    try:
        return yaml.load(text, loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def _count_values(node: yaml.Node, counts: dict[yaml.Node, int]) -> int:
    """How many values a node stands for once its aliases are written out.

    Args:
        node: a node of a text. An alias is the node that it refers to.
        counts: the counts of nodes that were counted before.

    Raises:
        yaml.YAMLError: they are too many, or the node contains itself.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    if node not in counts:
        counts[node] = MAX_VALUES + 1  # for as long as its own values are counted
        counts[node] = 1 + sum(_count_values(child, counts) for child in _children(node))
    if counts[node] > MAX_VALUES:
        raise yaml.constructor.ConstructorError(
            problem=f"with its aliases it holds more than {MAX_VALUES:,} values",
            problem_mark=node.start_mark,
        )
    return counts[node]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        return node.value
    children = []
    for key, value in node.value:
        children += [key, value]
    return children
