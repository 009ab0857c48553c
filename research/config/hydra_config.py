"""The configuration as Hydra composes it: where ``conf/`` lies, its schemas and resolvers, and the
typed result.
"""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf

from research.config import schema
from research.config.errors import unknown_setting
from research.config.naming import run_name
from research.config.validation import check, check_choices

STARTED = time.strftime("%Y-%m-%d_%H-%M-%S")
GROUPS = [item.name for item in dataclasses.fields(schema.Config) if schema.is_group(item.default)]
SETTINGS_OF_THE_ROOT = [
    item.name for item in dataclasses.fields(schema.Config) if not schema.is_group(item.default)
]


def resource_dir(name: str) -> Path:
    """``conf`` or ``experiments``: beside the package in a checkout, inside it once installed."""
    package = Path(__file__).parent.parent
    return package / name if (package / name).is_dir() else package.parent / name


def register() -> None:
    """Makes the schemas and resolvers known to Hydra.

    ``schema`` types the settings that every run has. Each option of a group has a schema of its
    own, such as ``skip/schema/scaled``, from which ``conf/skip/scaled.yaml`` begins.
    """
    store = ConfigStore.instance()
    store.store(name="schema", node=_root_schema())
    for group, classes in schema.OPTIONS.items():
        for name in classes:
            node = _editable(schema.make_option(group, name))
            store.store(group=f"{group}/schema", name=name, node=node)
    OmegaConf.register_new_resolver("fathom.study", _study, replace=True)
    OmegaConf.register_new_resolver("fathom.run", _run, replace=True)


def _editable(option: Any) -> DictConfig:
    """A typed node for a frozen dataclass, which OmegaConf marks as read-only."""
    node = OmegaConf.structured(option)
    OmegaConf.set_readonly(node, None)
    return node


def _root_schema() -> DictConfig:
    """Typed nodes for everything that is no option of a group in ``conf/``."""
    root = _editable(schema.Config())
    always = [name for name in GROUPS if name not in schema.OPTIONS]
    node = OmegaConf.masked_copy(root, [*SETTINGS_OF_THE_ROOT, *always])
    for group in always:
        node[group] = _editable(getattr(schema.Config(), group))
    return OmegaConf.create(node)


def _study(name: str | None) -> str:
    return name or STARTED


def _run(overrides: Any) -> Any:
    if isinstance(overrides, ListConfig):
        return run_name(list(overrides))
    return overrides


def to_config(composed: DictConfig) -> schema.Config:
    """The checked configuration of one run.

    Raises:
        ValueError: naming the setting that is unknown, has no effect, or is out of its range.
    """
    nodes = {str(name): node for name, node in composed.items() if name != "hydra"}
    values = {}
    for name, node in nodes.items():
        values[name] = _to_option(name, node) if name in GROUPS else _to_value(name, node)
    config = schema.Config(**values)
    if "hydra" in composed:
        check_choices(composed.hydra.runtime.choices, config)
    check(config)
    return config


def _to_value(name: str, node: Any) -> Any:
    if name not in SETTINGS_OF_THE_ROOT:
        path = name
        if OmegaConf.is_dict(node):
            path = f"{name}.{next(iter(node), '')}".rstrip(".")
        raise ValueError(unknown_setting(path))
    if name == "name" and node is not None:
        return str(node)  # name=2026 is a number to Hydra
    return node


def _to_option(group: str, node: Any) -> Any:
    """The frozen dataclass of a group's node."""
    cls = OmegaConf.get_type(node)
    known = [item.name for item in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
    for name in node:
        if name not in known:
            raise ValueError(unknown_setting(f"{group}.{name}"))
    return _with_tuples(OmegaConf.to_object(node))


def _with_tuples(option: Any) -> Any:
    """The option with tuples instead of the lists that OmegaConf makes of them."""
    lists: Mapping[str, Any] = {
        name: tuple(value) for name, value in vars(option).items() if isinstance(value, list)
    }
    return dataclasses.replace(option, **lists) if lists else option
