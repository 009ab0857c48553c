"""Whether a configuration makes sense: ranges of numbers, and what can be known of the data before it is loaded."""

import dataclasses
import enum
import math
import operator
import re
from collections.abc import Mapping

from research.config.compatibility import check_compatibility
from research.config.schema import INSPECTIONS, Config, Mesh, iter_fields

_SYMBOLS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def check(config: Config) -> None:
    """Raises ValueError, naming the path, the range and the value, for the first number out of its range."""
    for path, item, value in iter_fields(config):
        for number_ in value if isinstance(value, list) else [value]:
            if isinstance(number_, float) and not math.isfinite(number_):
                raise ValueError(f"{path} must be finite, got {number_}")
        bounds = item.metadata.get("bounds", {})
        if value is not None and not all(
            getattr(operator, kind)(value, bound) for kind, bound in bounds.items()
        ):
            raise ValueError(f"{path} must be {valid(path)}, got {value}")
    if config.name is not None and not re.fullmatch(r"[\w.,=+-]*\w[\w.,=+-]*", config.name):
        raise ValueError(
            f"name must be a folder's name of letters, digits and . , = + - _, got {config.name}"
        )
    if not config.data.shape or min(config.data.shape) < 1:
        raise ValueError(f"data.shape must be {valid('data.shape')}, got {config.data.shape}")
    for name in config.measure.inspect:
        if name not in INSPECTIONS:
            raise ValueError(
                f"measure.inspect must hold some of {', '.join(INSPECTIONS)}, got {name}"
            )
    check_compatibility(config)
    _check_mesh(config.mesh)
    _check_data(config)


def check_choices(choices: Mapping[str, str | None], config: Config) -> None:
    """Raises ValueError where a group has several options, which would be merged, or one takes another's meaning.

    ``choices`` maps each group of which one option was chosen to its name.
    """
    for group, settings in vars(config).items():
        if dataclasses.is_dataclass(settings) and isinstance(
            next(iter(vars(settings).values())), enum.Enum
        ):
            if group not in choices:
                raise ValueError(
                    f"{group} must be one option; several make a sweep, fathom train -m {group}=…,…"
                )
    activation = config.activation.kind.name
    if choices["model"] == "linear" and activation != "linear":
        raise ValueError(
            f"model must be mlp (linear is an mlp without activation), got linear and {activation}"
        )


def _check_mesh(mesh: Mesh) -> None:
    """Without a cluster manager every process must be told all three."""
    if mesh.kind.name != "distributed":
        return
    told = {name: getattr(mesh, name) for name in ("coordinator", "processes", "process")}
    missing = [f"mesh.{name}" for name, value in told.items() if value is None]
    if 0 < len(missing) < 3:
        raise ValueError(
            f"{missing[0]} must be given too: a process needs to know the first one, all, and itself"
        )
    if mesh.process is not None and mesh.processes is not None and mesh.process >= mesh.processes:
        raise ValueError(
            f"mesh.process must be < mesh.processes={mesh.processes}, got {mesh.process}"
        )
    if mesh.coordinator is not None and not re.fullmatch(r".+:\d+", mesh.coordinator):
        raise ValueError(
            f"mesh.coordinator must be host:port of the first process, got {mesh.coordinator}"
        )


def _check_data(config: Config) -> None:
    """What can be known of the data before it is loaded."""
    from research.data.sources import describe
    from research.data.splits import parse_split

    data = config.data
    name = config.data.name.name
    splits = describe(data).splits
    part = slice(0, data.examples)
    if name != "noise":
        _, part = parse_split(data.split, splits)
        parse_split(data.eval_split, splits, "data.eval_split")
    whole = part.stop - part.start
    examples = min(whole, data.limit or whole)
    batch = config.train.batch_size
    if config.optimizer.kind.name != "gd" and batch > examples:
        raise ValueError(
            f"train.batch_size must be ≤ {examples}, the examples of {name}, got {batch}"
        )


def valid(path: str) -> str:
    """What the setting at ``path`` takes, in words: ``a whole number ≥ 1``."""
    item = next(item for known, item, _ in iter_fields(Config()) if known == path)
    if isinstance(item.default, enum.Enum):
        return f"one of {', '.join(option.name for option in type(item.default))}"
    words = {
        "list[str]": f"a list of some of {', '.join(INSPECTIONS)}, in brackets",
        "list": "a list of whole numbers ≥ 1",
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "a text",
    }
    noun = next((words[name] for name in words if name in str(item.type)), str(item.type))
    bounds = " and ".join(
        f"{_SYMBOLS[kind]} {bound:.10g}" for kind, bound in item.metadata.get("bounds", {}).items()
    )
    return f"{noun} {bounds}".strip()
