"""Configurations, architectures and hyperparameters for tests, from short names."""

import dataclasses
import enum
from typing import Any

import jax.numpy as jnp
import numpy as np

from research.config.fields import replace_traced, traced_names, without_traced_values
from research.config.number_formats import POLICIES
from research.config.schema import OPTIONS, Config, is_group, make_option
from research.models.architecture import Architecture
from research.models.hparams import HParams, static_train
from research.training.precision import rounding_fields
from research.training.program_config import ProgramConfig

GROUPS_OF_A_NETWORK = ("model", "skip", "norm", "activation", "init")
GROUPS_OF_TRAINING = ("train", "optimizer", "precision", "loss", "measure")
SETTINGS = {  # the short name of a setting, and its path
    "kind": "model",
    "placement": "norm.placement",
    "groups": "norm.groups",
    "affine": "norm.affine",
    "scale": "norm.scale",
    "growth": "skip.growth",
    "streams": "skip.streams",
    "layer": "init.layer",
}
USUAL = {
    "shape": (5,),
    "classes": 4,
    "depth": 3,
    "width": 8,
    "activation": "tanh",
    "init": "lecun",
    "groups": 2,
    "growth": 3,
    "dtype": "float32",
    "param_dtype": "float32",
}
SETTINGS_OF_TRAINING = {
    "input_noise": "train.input_noise",
    "optimizer": "optimizer",
    "schedule": "optimizer.schedule",
    "clip": "optimizer.clip",
    "frozen_layer": "optimizer.frozen_layer",
    "precision": "precision",
    "loss_scaling": "precision.loss_scaling",
    "loss_scale": "precision.loss_scale",
    "stochastic_rounding": "precision.stochastic_rounding",
    "block_scale": "precision.block_scale",
    "stochastic_gradients": "precision.stochastic_gradients",
    "round_weights": "precision.round_weights",
    "loss": "loss",
    "level": "measure",
    "every": "measure.every",
    "inspect": "measure.inspect",
}
USUAL_OF_TRAINING = {
    "optimizer": "momentum",
    "precision": "float32",
    "loss": "cross_entropy",
    "level": "norms",
}


def make_config(changes: dict[str, Any] | None = None) -> Config:
    """A configuration from options by group and settings by dotted path: {"skip": "scaled", …}.

    A group whose option is not named has the option of ``Config()``.
    """
    changes = changes or {}
    values = {}
    for item in dataclasses.fields(Config):
        if is_group(item.default):
            values[item.name] = _option(item.name, item.default, changes)
        elif item.name in changes:
            values[item.name] = changes[item.name]
    known = {path for path in changes if path in values or path.partition(".")[0] in values}
    assert known == set(changes), f"unknown: {set(changes) - known}"
    return Config(**values)


def _option(
    group: str,
    default: Any,
    changes: dict[str, Any],
) -> Any:
    settings = {}
    for path, value in changes.items():
        of_group, _, name = path.partition(".")
        if of_group == group and name:
            settings[name] = value
    if group in changes:
        default = make_option(group, changes[group])
    return dataclasses.replace(default, **_with_enums(default, settings))


def _with_enums(option: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with members of enumerations in place of their names."""
    converted = dict(settings)
    for name, value in settings.items():
        present = getattr(option, name)
        if isinstance(present, enum.Enum) and isinstance(value, str):
            converted[name] = type(present)[value]
    return converted


def make_architecture(**changes: Any) -> Architecture:
    """A small network from short names: ``make_architecture(skip="dense", width=8)``.

    Names are fields of ``Architecture``, options of a group, or settings of the model. Numbers in
    ``USUAL`` that the chosen options lack are left out; a change that they lack is an error.
    """
    fields = {item.name for item in dataclasses.fields(Architecture)} - set(GROUPS_OF_A_NETWORK)
    facts = {}
    chosen = {}
    for name, value in (USUAL | changes).items():
        if name in fields:
            facts[name] = value
            continue
        path = SETTINGS.get(name, name if name in GROUPS_OF_A_NETWORK else f"model.{name}")
        if name in changes or _has(path, USUAL | changes):
            chosen[path] = value
    config = make_config(chosen)
    network = {}
    for group in GROUPS_OF_A_NETWORK:
        network[group] = without_traced_values(getattr(config, group))
    return Architecture(**facts, **network)


def make_program_config(**changes: Any) -> ProgramConfig:
    """A small program from short names: ``make_program_config(optimizer="adam", skip="dense")``.

    Names are fields of ``ProgramConfig``, those of ``SETTINGS_OF_TRAINING``, or names that
    ``make_architecture`` takes. The number formats are those of ``precision``.
    """
    fields = {item.name for item in dataclasses.fields(ProgramConfig)} - set(GROUPS_OF_TRAINING)
    facts = {"batch_size": 8, "capacity": 16, "fast_compile": True}
    chosen = {}
    names = USUAL_OF_TRAINING | changes
    policy = POLICIES[names["precision"]]
    network = {
        "dtype": policy.compute,
        "param_dtype": policy.params,
    }
    for name, value in names.items():
        if name in fields:
            facts[name] = value
        elif name in SETTINGS_OF_TRAINING:
            chosen[SETTINGS_OF_TRAINING[name]] = value
        else:
            network[name] = value
    config = make_config(chosen)
    network = rounding_fields(config.precision) | network
    training = {}
    for group in GROUPS_OF_TRAINING:
        training[group] = without_traced_values(getattr(config, group))
    training["train"] = static_train(config.train)
    return ProgramConfig(architecture=make_architecture(**network), **training, **facts)


def _has(path: str, names: dict[str, Any]) -> bool:
    """Whether the chosen option of a group has a setting."""
    group, _, setting = path.partition(".")
    if not setting:
        return True
    default_options = {
        "model": "mlp",
        "skip": "none",
        "norm": "none",
    }
    short_name = "kind" if group == "model" else group
    option = names.get(short_name, default_options[group])
    return has_setting(group, option, setting)


def has_setting(group: str, option: str, name: str) -> bool:
    """Whether an option of a group has a setting."""
    fields = dataclasses.fields(OPTIONS[group][option])
    return name in [item.name for item in fields]


def make_hparams(
    target: ProgramConfig | Architecture,
    changes: dict[str, Any] | None = None,
    *,
    runs: int | None = 1,
    dtype: str | None = None,
) -> HParams:
    """The hyperparameters of a program or a network: the defaults, except for ``changes``.

    Args:
        target: what they are passed to.
        changes: numbers by dotted path, such as ``seed`` and ``train.steps``; a list holds one
            value for each run.
        runs: M; None for a single run without an axis.
        dtype: format of real numbers; None for that in which the target accumulates.
    """
    dtype = dtype or _accumulation_dtype(target)
    shape = () if runs is None else (runs,)
    values = {"train.steps": 10, "seed": 0} | (changes or {})
    count_formats = {"train.steps": np.int32, "seed": np.uint32}

    def to_array(path: str, default: Any) -> Any:
        usual_format = np.int32 if isinstance(default, int) else dtype
        number = np.asarray(values.pop(path, default), count_formats.get(path, usual_format))
        return jnp.asarray(np.broadcast_to(number, shape))

    groups = {}
    for group, option in _options_of(target).items():
        arrays = {}
        for name in traced_names(option):
            arrays[name] = to_array(f"{group}.{name}", getattr(option, name))
        groups[group] = dataclasses.replace(option, **arrays)
    hp = HParams(seed=to_array("seed", 0), **groups)
    assert not values, f"not traced, or not of these options: {set(values)}"
    return hp


def select_existing(
    target: ProgramConfig | Architecture, numbers: dict[str, Any]
) -> dict[str, Any]:
    """Those of the numbers, by dotted path, that the options of a program or a network have."""
    options_of_target = _options_of(target)
    selected = {}
    for path, value in numbers.items():
        group, _, name = path.rpartition(".")
        if not group or name in traced_names(options_of_target[group]):
            selected[path] = value
    return selected


def trace_option(option: Any, dtype: str = "float32") -> Any:
    """An option with arrays for its traced numbers, as inside a program."""

    def to_array(
        name: str,
        declared: Any,
        value: float,
    ) -> Any:
        del name, declared
        return jnp.asarray(value, jnp.int32 if isinstance(value, int) else dtype)

    return replace_traced(option, to_array)


def _accumulation_dtype(target: ProgramConfig | Architecture) -> str:
    """The format of gauges, losses and the optimizer."""
    arch = target if isinstance(target, Architecture) else target.architecture
    return "float64" if arch.dtype == "float64" else "float32"


def _options_of(target: ProgramConfig | Architecture) -> dict[str, Any]:
    """The options that hyperparameters are made of; those of training are the defaults for a
    network.
    """
    is_network = isinstance(target, Architecture)
    arch = target if is_network else target.architecture
    training = Config() if is_network else target
    groups = {group: getattr(arch, group) for group in GROUPS_OF_A_NETWORK}
    for group in ("optimizer", "precision", "loss"):
        groups[group] = getattr(training, group)
    groups["train"] = static_train(training.train)
    return groups
