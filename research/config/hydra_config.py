"""The configuration as Hydra composes it: where ``conf/`` lies, its schema and resolvers, and the typed result."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf

from research.config import errors, schema
from research.config.naming import run_name
from research.config.validation import check, check_choices

KNOBS = frozenset(schema.setting_paths())
STARTED = time.strftime("%Y-%m-%d_%H-%M-%S")


def resource_dir(name: str) -> Path:
    """``conf`` or ``experiments``: beside the package in a checkout, inside it once installed."""
    package = Path(__file__).parent.parent
    return package / name if (package / name).is_dir() else package.parent / name


def register() -> None:
    """Makes schema and resolvers known to Hydra."""
    ConfigStore.instance().store(name="schema", node=schema.Config)
    names = {
        "fathom.study": lambda name: name or STARTED,
        "fathom.run": lambda overrides: (
            run_name(list(overrides)) if isinstance(overrides, ListConfig) else overrides
        ),
    }
    for name, resolver in names.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def to_config(composed: DictConfig) -> schema.Config:
    """The checked configuration of one run.

    Raises:
        ValueError: naming the setting that is unknown or out of its range.
    """
    nodes = {str(name): node for name, node in composed.items() if name != "hydra"}
    values: dict[str, Any] = {
        name: OmegaConf.to_object(node) if OmegaConf.is_config(node) else node
        for name, node in nodes.items()
    }
    for path in _paths(values):
        if path not in KNOBS:
            raise ValueError(errors.unknown(path))
    config = schema.Config(**values)
    if "hydra" in composed:
        check_choices(composed.hydra.runtime.choices, config)
    check(config)
    return config


def _paths(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted path that was set; what the schema has not lies in a group as another attribute."""
    for name, value in values.items():
        inner = vars(value) if is_dataclass(value) else value
        if isinstance(inner, dict):
            yield from _paths(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
