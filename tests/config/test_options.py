"""Every option of every group: a setting it lacks is refused, and each setting it has does something."""

import dataclasses
import enum
import functools
from typing import Any

import jax
import numpy as np
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode

from research.config.errors import explain
from research.config.fields import settings_of
from research.config.hydra_config import register_with_hydra, resource_dir
from research.config.schema import OPTIONS, setting_paths
from research.runner.run_setup import make_run_setup
from research.sweeps.composition import Composer
from research.training.precision import scope
from research.training.program import make_program

from ..builders import make_config

ALL_OPTIONS = [(group, name) for group, classes in OPTIONS.items() for name in classes]
SMALL = {
    "model.depth": 2,
    "model.width": 4,
    "data": "noise",
    "data.shape": (8, 8, 1),
    "data.classes": 3,
    "data.examples": 8,
    "train.steps": 2,
    "train.batch_size": 4,
    "measure": "off",
}
TEXT = {
    "model": "transformer",
    "model.heads": 2,
    "norm": "layer",
    "data": "python_docs",
    "data.length": 8,
    "data.limit": 8,
}
NEEDED = {  # what an option needs to be allowed, and to have all of its settings act
    ("model", "resnet_cifar"): {"model.depth": 8, "skip": "identity"},
    ("model", "resnet"): {"model.depth": 18, "skip": "identity"},
    ("model", "transformer"): {**TEXT, "skip": "identity"},
    ("model", "rnn"): {"model.depth": 4},
    ("skip", "deepnorm"): {**TEXT, "norm.placement": "post"},
    ("norm", "none"): {"model": "resnet_cifar", "model.depth": 8, "skip": "identity"},
    ("norm", "group"): {"norm.groups": 2},
    ("init", "delta_orthogonal"): {"model": "cnn"},
    ("measure", "full"): {"measure.every": 1},
    ("data", "digits"): {"model": "cnn", "data.limit": 200},
    ("data", "python_docs"): TEXT,
    ("data", "function"): {"loss": "mse", "data.examples": 16},
    ("data", "noise"): {"model": "cnn"},
}
NOT_TRAINED = ("mesh",)  # devices change no number
FROM_FILES = {name for name in OPTIONS["data"] if name not in ("digits", "function", "noise")}
FROM_FILES -= {"python_docs"}


@functools.cache
def composer():
    register_with_hydra()
    search_path = create_config_search_path(str(resource_dir("conf").absolute()))
    return Composer(ConfigLoaderImpl(search_path))


@functools.cache
def default_configuration():
    return composer().load_configuration("config", [], run_mode=RunMode.MULTIRUN)


def complaint(*overrides) -> str:
    """The line with which a job of a sweep is refused."""
    with pytest.raises((ConfigCompositionException, ValueError)) as refused:
        composer().load_sweep_config(default_configuration(), list(overrides))
    line = explain(refused.value)
    assert line is not None
    return line


def lacking(group, name) -> list[str]:
    """The settings that other options of the group have."""
    names = {item.name for item in dataclasses.fields(OPTIONS[group][name])}
    missing = []
    for path in setting_paths():
        of_group, _, setting = path.partition(".")
        if of_group == group and setting not in names:
            missing.append(path)
    return missing


@pytest.mark.parametrize(("group", "name"), ALL_OPTIONS)
def test_a_setting_that_an_option_lacks_is_refused_in_one_line(group, name):
    for path in lacking(group, name):
        line = complaint(f"{group}={name}", f"{path}=1")
        assert "\n" not in line
        assert line.startswith(f"{path} is not a setting of the chosen {group}: it belongs to ")
        assert f"{group}={name}" not in line.replace(",", " ").split()


def base_of(group, name) -> dict[str, Any]:
    """A small run with an option, on which every setting of the option can act."""
    changes = SMALL | {group: name} | NEEDED.get((group, name), {})
    if changes["data"] != "noise":
        changes.pop("data.shape")
        changes.pop("data.classes")
    if changes["data"] not in ("noise", "function"):
        changes.pop("data.examples")
    return changes


def conditions_of(group, declared) -> dict[str, Any]:
    """What has to be set for a setting to act."""
    conditions = {}
    for name, values in declared.only_with.items():
        conditions[f"{group}.{name}"] = values[-1]
    if declared.needs == "inspect":
        conditions["measure.inspect"] = ("output_change",)
    return conditions


OTHER_VALUES = {
    "model.depth": {"resnet_cifar": 14, "resnet": 34, "rnn": 8},
    "model.heads": {"transformer": 4},
    "norm.groups": {"group": 4},
    "data.shape": {"noise": (4, 4, 1)},
    "data.limit": {"noise": 4, "digits": 100, "function": 8, "python_docs": 4},
    "data.split": {"digits": "train[:150]", "function": "train[:8]", "python_docs": "train[:50%]"},
    "data.eval_split": {"digits": "train", "function": "train", "python_docs": "train"},
    "data.label": {"python_docs": "topic"},
    "data.noise": {"function": 0.5},
    "measure.inspect": dict.fromkeys(("off", "norms", "full"), ("output_change",)),
}


def other_value(path, option_name, value):
    """A valid value that is not the present one."""
    if path in OTHER_VALUES and option_name in OTHER_VALUES[path]:
        return OTHER_VALUES[path][option_name]
    if isinstance(value, enum.Enum):
        members = list(type(value))
        return members[(members.index(value) + 1) % len(members)]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value / 2 or 0.25


@dataclasses.dataclass
class Effect:
    """What a configuration trains: compared between two configurations."""

    program: str
    arguments: list[Any]
    data: str
    intervals: tuple

    def __eq__(self, other):
        same_arguments = jax.tree.all(
            jax.tree.map(lambda a, b: np.array_equal(a, b), self.arguments, other.arguments)
        )
        return (
            self.program == other.program
            and self.data == other.data
            and self.intervals == other.intervals
            and same_arguments
        )


def effect_of(changes) -> Effect:
    config = make_config(changes)
    with scope(config.precision.kind.name):
        setup = make_run_setup(config)
        program = make_program(setup.spec)
        state = jax.eval_shape(program.init, setup.hp)
        steps = np.int32(1)
        lowered = [
            program.init.lower(setup.hp),
            program.chunk.lower(state, setup.hp, setup.feed(0, 1), np.int32(0), steps),
        ]
        if setup.spec.measure.inspect:
            lowered.append(program.inspections.lower(state, setup.hp, setup.feed(0, 1)))
        text = "\n".join(each.as_text(debug_info=False) for each in lowered)
        names = "\n".join(each.as_text(debug_info=True) for each in lowered)
    intervals = (setup.steps, setup.eval_every, sorted(setup.diagnostic_intervals.items()))
    effect = Effect(text, jax.tree.leaves(setup.hp), setup.dataset.fingerprint(), intervals)
    effect.argument_names = names  # type: ignore[attr-defined]
    return effect


effect_of_cached = functools.cache(lambda items: effect_of(dict(items)))


def settings_to_try(group, name):
    option = getattr(make_config(base_of(group, name)), group)
    for setting, declared in settings_of(option):
        yield setting, declared, getattr(option, setting)


TRAINED = [
    (group, name)
    for group, name in ALL_OPTIONS
    if group not in NOT_TRAINED and not (group == "data" and name in FROM_FILES)
]


@pytest.mark.parametrize(("group", "name"), TRAINED)
def test_each_setting_of_an_option_changes_the_program_its_arguments_or_the_data(group, name):
    base = base_of(group, name)
    for setting, declared, value in settings_to_try(group, name):
        path = f"{group}.{setting}"
        conditions = conditions_of(group, declared)
        before = effect_of_cached(tuple((base | conditions).items()))
        if declared.traced and not declared.switch:
            # A traced number acts if the compiled functions keep its argument.
            assert f".{path}" in before.argument_names, path
            continue
        changed = base | conditions | {path: other_value(path, name, value)}
        assert effect_of(changed) != before, path
