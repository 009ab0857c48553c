"""The configuration as Hydra composes it: its folder, schemas and resolvers, and the result."""

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.types import RunMode
from omegaconf import DictConfig, IntegerNode, ListConfig, OmegaConf, StringNode

from research.config import schema
from research.config.errors import EXTRA_GROUPS, explain_group, unknown_setting
from research.config.given_settings import check_overrides
from research.config.naming import run_name
from research.config.resources import resource_dir as resource_dir
from research.config.validation import check_choices, check_config
from research.config.yaml_files import parse_yaml

STARTED = time.strftime("%Y-%m-%d_%H-%M-%S")
FIELDS = dataclasses.fields(schema.Config)
GROUPS = [item.name for item in FIELDS if schema.is_group(item.default)]
SWEEP_SETTINGS = ("hydra/launcher=", "hydra.launcher.", "hydra/sweeper=", "hydra.sweeper.")
SETTINGS_OF_THE_ROOT = [item.name for item in FIELDS if item.name not in GROUPS]


@functools.cache
def register_with_hydra() -> None:
    """Makes the schemas and resolvers known to Hydra, once in a process.

    ``schema`` holds the types of the settings that every run has. Each option of a group has its
    own schema, such as ``skip/schema/scaled``, which ``conf/skip/scaled.yaml`` includes.
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
    default = schema.Config()
    root = OmegaConf.create()
    root["seed"] = IntegerNode(default.seed, is_optional=False)
    root["name"] = StringNode(default.name)
    root["tags"] = list(default.tags)
    root["notes"] = StringNode(default.notes, is_optional=False)
    for group in GROUPS:
        if group not in schema.OPTIONS:
            root[group] = _editable(getattr(default, group))
    return root


def _study(name: str | None) -> str:
    """The name of a study's folder."""
    return name or STARTED


def _run(overrides: Any) -> Any:
    """The name of a run's folder."""
    if isinstance(overrides, ListConfig):
        return run_name(list(overrides))
    return overrides


def to_config(composed: DictConfig) -> schema.Config:
    """The checked configuration of one run.

    Raises:
        ValueError: naming the setting that is unknown, has no effect, or is out of its range.
    """
    values = {}
    for key, node in composed.items():
        name = str(key)
        if name in GROUPS and not OmegaConf.is_dict(node):
            raise ValueError(explain_group(name))
        if name in GROUPS:
            values[name] = _to_option(name, node)
        elif name == "name" and node is not None:
            values[name] = str(node)  # name=2026 is a number to Hydra
        elif name == "tags":
            values[name] = _to_tags(node)
        elif name in SETTINGS_OF_THE_ROOT:
            values[name] = node
        elif name != "hydra":
            raise ValueError(_explain_unknown(name, node, composed))
    config = schema.Config(**values)
    choices = {}
    if "hydra" in composed:
        choices = composed.hydra.runtime.choices
        check_choices(choices, composed, config)
        _check_directories(composed.hydra)
    check_config(config)
    if "hydra" in composed:
        check_overrides(
            composed.hydra.overrides.task,
            choices,
            config,
            in_file=settings_of_file(composed),
            is_sweep=composed.hydra.mode is RunMode.MULTIRUN,
        )
    return config


def resolve_settings(composed: DictConfig) -> None:
    """Replaces interpolations such as ``seed=${model.width}`` by what they stand for.

    Those of Hydra's own settings stay, because the run's directory follows from them.
    """
    for key in composed:
        name = str(key)
        if name == "hydra":
            continue
        if OmegaConf.is_interpolation(composed, name):
            composed[name] = composed[name]
        elif OmegaConf.is_config(composed[name]):
            OmegaConf.resolve(composed[name])


def read_recorded_config(file: Path) -> schema.Config:
    """The checked configuration of a run from the ``config.yaml`` in its directory.

    Settings that an earlier version did not have yet are at their defaults.

    Args:
        file: the file, as Hydra writes it: all settings without types.

    Raises:
        ValueError: the file is missing, or holds a setting that there is no longer.
    """
    if not file.exists():
        raise ValueError(f"{file} is missing: this is no run that Fathom trained")
    try:
        parse_yaml(file.read_text(encoding="utf-8"))  # refuses what OmegaConf would expand for ever
    except (ValueError, yaml.YAMLError):
        raise ValueError(f"{file} is damaged: it holds no settings") from None
    recorded: Any = OmegaConf.load(file)
    typed = _root_schema()
    for group in schema.OPTIONS:
        option = recorded[group][schema.selector_of(group)]
        typed[group] = _editable(schema.make_option(group, option))
    composed = OmegaConf.merge(typed, recorded)
    assert isinstance(composed, DictConfig)
    return to_config(composed)


def settings_of_file(composed: DictConfig) -> dict[str, Any]:
    """What the experiment's file of a single run sets, by dotted path.

    The file is that of a user, not one of Fathom's own. Of a sweep's file nothing is returned,
    because its settings need not act in every run.
    """
    given: dict[str, Any] = {}
    if composed.hydra.mode is RunMode.MULTIRUN:
        return given
    for group in EXTRA_GROUPS:
        name = composed.hydra.runtime.choices.get(group)
        for source in composed.hydra.runtime.config_sources:
            file = Path(source.path) / group / f"{name}.yaml"
            is_of_user = source.schema == "file" and source.provider != "main"
            if name and is_of_user and file.is_file():
                content = parse_yaml(file.read_text(encoding="utf-8")) or {}
                given |= _flatten_groups(content)
    return given


def _flatten_groups(content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of groups in a file, by dotted path."""
    given = {}
    for group, values in content.items():
        if group in GROUPS and isinstance(values, dict):
            for name, value in values.items():
                given[f"{group}.{name}"] = value
    return given


def _to_tags(node: Any) -> tuple[str, ...]:
    """The tags of a list, or of a single word."""
    if OmegaConf.is_dict(node):
        raise ValueError("tags must be a list of words in brackets, such as tags=[baseline,night]")
    words = node if OmegaConf.is_list(node) else [node]
    if any(OmegaConf.is_config(word) for word in words):
        raise ValueError("tags must be a list of words in brackets, got a list or settings in it")
    return tuple(str(word) for word in words if word is not None)


def _explain_unknown(
    name: str,
    node: Any,
    composed: DictConfig,
) -> str:
    """The line for a setting that no run has.

    A file of a group without its header puts its settings there under the name of the group.
    """
    path = _first_path(name, node)
    choices = composed.hydra.runtime.choices if "hydra" in composed else {}
    chosen = [group for group in EXTRA_GROUPS if choices.get(group)]
    if name in chosen:
        chosen = [name]
    is_inside = path.partition(".")[2] in [*GROUPS, *SETTINGS_OF_THE_ROOT]
    if chosen and OmegaConf.is_dict(node) and (name in EXTRA_GROUPS or is_inside):
        group = chosen[0]
        return (
            f"{group}={choices[group]} needs another header: the first line of its file must be "
            f"# @package _global_, or its settings are read as {path}"
        )
    return unknown_setting(path)


def _check_directories(settings: DictConfig) -> None:
    """An empty name would put the record into the folder where the command is called."""
    given = settings.overrides.hydra
    is_sweep = settings.mode is RunMode.MULTIRUN
    for path in ("run.dir", "sweep.dir", "sweep.subdir"):
        directory = OmegaConf.select(settings, path)
        if directory is None or not str(directory).strip():
            raise ValueError(f"hydra.{path} must be a folder, got an empty value")
        if is_sweep == (path == "run.dir") and _is_given(f"hydra.{path}", given):
            other = "sweep.dir" if is_sweep else "run.dir"
            kind = "sweep" if is_sweep else "single run"
            raise ValueError(f"hydra.{path} has no effect on a {kind}; hydra.{other} is its folder")
    for word in given:
        if not is_sweep and word.lstrip("+").startswith(SWEEP_SETTINGS):
            raise ValueError(
                f"{word} has no effect on a single run; fathom train -m trains a sweep"
            )
    for group in ("launcher", "sweeper"):
        if not OmegaConf.is_dict(OmegaConf.select(settings, group)):
            raise ValueError(
                f"hydra.{group} is chosen as hydra/{group}=…, such as hydra/launcher=joblib"
            )


def _is_given(path: str, overrides: Sequence[str]) -> bool:
    """Whether an override of Hydra's settings sets ``path``."""
    return any(word.lstrip("+").startswith(f"{path}=") for word in overrides)


def _first_path(name: str, node: Any) -> str:
    """The path of the first setting in an unknown node."""
    if OmegaConf.is_dict(node) and node:
        return f"{name}.{next(iter(node))}"
    return name


def _to_option(group: str, node: Any) -> Any:
    """The frozen dataclass of a group's node."""
    known = []
    cls = OmegaConf.get_type(node)
    if dataclasses.is_dataclass(cls):
        known = [item.name for item in dataclasses.fields(cls)]
    for name in node:
        if name not in known:
            raise ValueError(unknown_setting(f"{group}.{name}", node))
    return _with_tuples(OmegaConf.to_object(node))


def _with_tuples(option: Any) -> Any:
    """The option with tuples instead of the lists that OmegaConf makes of them."""
    tuples: dict[str, Any] = {}
    for name, value in vars(option).items():
        if isinstance(value, list):
            tuples[name] = tuple(value)
    return dataclasses.replace(option, **tuples)
