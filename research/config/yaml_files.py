"""Reads YAML quickly, and refuses short texts that stand for very much."""

from typing import Any

import yaml

FastLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# The parser in C ends the process where a text is nested too deeply, which a short text is not.
MAX_FAST_CHARACTERS = 8_000
MAX_VALUES = 100_000  # a configuration has a few hundred


def parse_yaml(text: str) -> Any:
    """The content of a YAML text, as ``yaml.safe_load`` returns it, in a tenth of the time.

    Raises:
        yaml.YAMLError: the text is not YAML, is nested too deeply, or holds too many values.
    """
    is_short = len(text) <= MAX_FAST_CHARACTERS
    try:
        return load_bounded(text, FastLoader if is_short else yaml.SafeLoader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def load_bounded(text: str, loader_class: Any) -> Any:
    """The content of a YAML text, as ``yaml.load`` returns it.

    Aliases, such as ``*a``, repeat their values, so that nine lines can stand for 10⁹ values, which
    would be written out sooner or later. Such a text is refused.

    Args:
        text: the text.
        loader_class: a loader of PyYAML.

    Raises:
        yaml.YAMLError: the text is not YAML, or stands for more than ``MAX_VALUES`` values.
    """
    loader = loader_class(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


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
