"""Every option of every group: settings that it lacks are refused, all that it has do something."""

import dataclasses
import enum
import functools
import hashlib
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from jax.stages import Lowered

from research.config.errors import explain
from research.config.fields import settings_of
from research.config.hydra_config import register_with_hydra, resource_dir
from research.config.schema import OPTIONS, setting_paths
from research.runner.run_setup import make_run_setup
from research.sweeps.composition import Composer
from research.training.precision import precision_context
from research.training.program import make_program

from ..builders import make_config
from ..data.image_folders import write_classes
from ..data.sample_datasets import write_tiny_images, write_tiny_texts

ALL_OPTIONS = [(group, name) for group, classes in OPTIONS.items() for name in classes]


@functools.cache
def composer():
    register_with_hydra()
    search_path = create_config_search_path(str(resource_dir("conf").absolute()))
    return Composer(ConfigLoaderImpl(search_path))


@functools.cache
def default_configuration():
    return composer().load_configuration("config", [], run_mode=RunMode.MULTIRUN)


def refusal_of(*overrides) -> str:
    """The line with which the job of a sweep is refused."""
    with pytest.raises(ConfigCompositionException) as refused:
        composer().load_sweep_config(default_configuration(), overrides)
    line = explain(refused.value)
    assert line is not None
    return line


def missing_settings(group, name) -> list[str]:
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
    for path in missing_settings(group, name):
        line = refusal_of(f"{group}={name}", f"{path}=1")
        assert "\n" not in line
        assert line.startswith(f"{path} is not a setting of {group}={name}, only of {group}=")


SMALL = {
    "model.depth": 2,
    "model.width": 4,
    "train.steps": 2,
    "train.batch_size": 4,
    "measure": "off",
}
IMAGES = {"data": "noise", "data.shape": (8, 8, 1), "data.classes": 3, "data.examples": 8}
TEXT = {"data": "python_docs", "data.length": 8, "data.limit": 8}
TRANSFORMER_ALONE = {"model": "transformer", "model.heads": 2, "norm": "layer"}
TRANSFORMER = TRANSFORMER_ALONE | TEXT
NEEDED = {  # what an option needs to be allowed, and to have all of its settings act
    ("model", "resnet_cifar"): {"model.depth": 8, "skip": "identity"},
    ("model", "resnet"): {"model.depth": 18, "skip": "identity"},
    ("model", "transformer"): {**TRANSFORMER, "skip": "identity"},
    ("model", "rnn"): {"model.depth": 4},
    ("skip", "deepnorm"): {**TRANSFORMER, "norm.placement": "post"},
    ("norm", "none"): {"model": "resnet_cifar", "model.depth": 8, "skip": "identity"},
    ("norm", "group"): {"norm.groups": 2},
    ("init", "delta_orthogonal"): {"model": "cnn"},
    ("measure", "full"): {"measure.every": 1},
    ("data", "digits"): {"model": "cnn", "data.limit": 200},
    ("data", "python_docs"): TRANSFORMER,
    ("data", "function"): {"data": "function", "loss": "mse", "data.examples": 16},
    ("data", "noise"): {"model": "cnn", **IMAGES},
    ("data", "folder"): {"data.path": "folder"},
    ("data", "arrays"): {"data.path": "arrays.npz"},
    ("data", "tfds"): {"data.dataset": "images"},
}
CATALOG_IMAGES = (
    "mnist",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "svhn_cropped",
    "imagenette",
    "imagenet2012",
)
CATALOG_TEXTS = ("tiny_shakespeare", "imdb_reviews", "trec")
OF_CATALOG = (*CATALOG_IMAGES, *CATALOG_TEXTS, "tfds")
READ_FROM_FILES = ("folder", "arrays", *OF_CATALOG)
for _name in CATALOG_TEXTS:
    NEEDED["data", _name] = TRANSFORMER_ALONE
OTHER_VALUES = {  # where the next number, or the next member of an enumeration, is not valid
    ("model.depth", "resnet_cifar"): 14,
    ("model.depth", "resnet"): 34,
    ("model.depth", "rnn"): 8,
    ("model.width", "transformer"): 8,
    ("model.heads", "transformer"): 4,
    ("norm.groups", "group"): 4,
    ("data.shape", "noise"): (4, 4, 1),
    ("data.limit", "noise"): 4,
    ("data.limit", "digits"): 100,
    ("data.limit", "function"): 8,
    ("data.limit", "python_docs"): 4,
    ("data.split", "digits"): "train[:150]",
    ("data.split", "function"): "train[:8]",
    ("data.split", "python_docs"): "train[50%:]",
    ("data.eval_split", "digits"): "train",
    ("data.eval_split", "function"): "train",
    ("data.eval_split", "python_docs"): "train",
    ("data.label", "python_docs"): "topic",
    ("data.noise", "function"): 0.5,
    ("data.path", "folder"): "other_folder",
    ("data.path", "arrays"): "other_arrays.npz",
    ("measure.inspect", "off"): ("output_change",),
    ("measure.inspect", "norms"): ("output_change",),
    ("measure.inspect", "full"): ("output_change",),
}


OTHER_VALUES_OF_FILES = {
    "data.split": "train[50%:]",
    "data.eval_split": "train",
    "data.limit": 8,
    "data.label": "other",
    "data.size": 4,
    "data.in_memory_limit": 0.0,
}
TEXTS_OF_TFDS = {"data.dataset": "texts", **TRANSFORMER_ALONE}
SETTINGS_OF_TEXT = ("unit", "length", "word_vectors")


@pytest.fixture(scope="module")
def all_files(tmp_path_factory):
    """A tiny dataset for every option that reads files."""
    folder = tmp_path_factory.mktemp("files")
    for seed, prefix in enumerate(("", "other_")):
        write_tiny_images(f"{prefix}images", folder, seed)
        write_tiny_texts(f"{prefix}texts", folder, seed)
        write_classes(folder / f"{prefix}folder", "a", "b", "c", count=8 + seed)
        x = np.arange(24 * 64).reshape(24, 8, 8, 1) ** (seed + 2.0)
        np.savez(folder / f"{prefix}arrays.npz", x=x, y=np.arange(24) % 3)
    for name in CATALOG_IMAGES:
        shutil.copytree(folder / "images", folder / name)
    for name in CATALOG_TEXTS:
        shutil.copytree(folder / "texts", folder / name)
    return folder


@pytest.fixture
def files_of_option(request, monkeypatch, group, name):
    """The files of the option in the working directory, if it reads any."""
    if group == "data" and name in READ_FROM_FILES:
        folder = request.getfixturevalue("all_files")
        monkeypatch.chdir(folder)
        monkeypatch.setenv("TFDS_DATA_DIR", str(folder))


def declaration(group, name, setting):
    """What the field of a setting declares."""
    return dict(settings_of(OPTIONS[group][name]))[setting]


def small_run(group, name) -> dict[str, Any]:
    """A small run with an option, on which every setting of the option can act."""
    needed = NEEDED.get((group, name), {})
    data = {} if group == "data" or "data" in needed else IMAGES
    return SMALL | data | {group: name} | needed


def conditions_of(group, name, setting) -> dict[str, Any]:
    """What has to be set for a setting of an option to act."""
    if (name, setting) == ("python_docs", "label_noise"):
        return {"data.label": "topic"}
    if name == "tfds" and setting in SETTINGS_OF_TEXT:
        return TEXTS_OF_TFDS
    conditions = {}
    declared = declaration(group, name, setting)
    for other, values in declared.only_with.items():
        conditions[f"{group}.{other}"] = values[0]
    if "layer" in declared.needs:
        conditions["init.layer"] = 0
    if "inspect" in declared.needs:
        conditions["measure.inspect"] = ("output_change",)
    return conditions


def other_value(path, option_name, value):
    """A valid value that is not the present one."""
    if (path, option_name) in OTHER_VALUES:
        return OTHER_VALUES[path, option_name]
    if path in ("init.layer", "optimizer.frozen_layer"):
        return 0
    if path == "optimizer.boundaries":
        return (1,)
    if path == "precision.layers":
        return ("0:bfloat16",)
    if path == "data.dataset":
        return "other_texts" if option_name in CATALOG_TEXTS else "other_images"
    if option_name in READ_FROM_FILES and path in OTHER_VALUES_OF_FILES:
        return OTHER_VALUES_OF_FILES[path]
    if isinstance(value, enum.Enum):
        members = list(type(value))
        return members[(members.index(value) + 1) % len(members)]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value / 2 or 0.25


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a configuration trains.

    Attributes:
        program: the text of the lowered functions.
        arguments: the bytes of each hyperparameter.
        data: the fingerprint of the dataset, and what the program reads of it.
        intervals: numbers of steps that only the host loop uses.
        lowered: the lowered functions.
    """

    program: str
    arguments: tuple[bytes, ...]
    data: tuple[str, ...]
    intervals: tuple[Any, ...]
    lowered: tuple[Lowered, ...] = dataclasses.field(compare=False)

    @functools.cached_property
    def argument_names(self) -> str:
        """The text of the lowered functions with the names of their arguments."""
        return "\n".join(each.as_text(debug_info=True) for each in self.lowered)


@functools.lru_cache(maxsize=16)
def cached_effect(changes: frozenset) -> Effect:
    config = make_config(dict(changes))
    with precision_context(config.precision.kind.name):
        setup = make_run_setup(config)
        lowered = lower(setup)
    digests = []
    for _, array in sorted(setup.data.items()):
        digests.append(hashlib.sha256(np.asarray(array).tobytes()).hexdigest())
    hyperparameters = [np.asarray(leaf) for leaf in jax.tree.leaves(setup.hp)]
    return Effect(
        program="\n".join(each.as_text() for each in lowered),
        arguments=tuple(number.tobytes() for number in hyperparameters),
        data=(setup.dataset.fingerprint(), *digests),
        intervals=(setup.steps, setup.eval_every, *sorted(setup.diagnostic_intervals.items())),
        lowered=tuple(lowered),
    )


def lower(setup):
    """The functions of a run's program, lowered but not compiled."""
    program = make_program(setup.program_config)
    state = jax.eval_shape(program.init, setup.hp)
    feed = setup.program_data(0, 1)
    lowered = [
        program.init.lower(setup.hp),
        program.chunk.lower(state, setup.hp, feed, np.int32(0), np.int32(1)),
    ]
    if setup.program_config.measure.inspect:
        lowered.append(program.inspections.lower(state, setup.hp, feed))
    return lowered


def effect_of(changes) -> Effect:
    return cached_effect(frozenset(changes.items()))


CHANGES_NO_NUMBER = ("mesh",)
# They say where the files come from that a dataset is prepared from.
OF_PREPARATION = ("raw_dir", "download")
EXPENSIVE = ("model", "measure", "optimizer")


def settings_to_try():
    """Every setting of every option.

    Settings of an option with the same dataclass as another one are slow. In expensive groups, and
    among the datasets of the catalogue, inherited settings are slow too. Of the others one in four
    always runs.
    """
    tried = set()
    parameters = []
    for group, name in ALL_OPTIONS:
        if group in CHANGES_NO_NUMBER:
            continue
        cls = OPTIONS[group][name]
        for setting, declared in settings_of(cls):
            if setting in OF_PREPARATION:
                continue
            key = (cls, setting)
            if group in EXPENSIVE or name in OF_CATALOG:
                key = (name in OF_CATALOG, id(declared))
            is_slow = key in tried or len(tried) % 4 > 0
            tried.add(key)
            marks = [pytest.mark.slow] if is_slow else []
            parameters.append(pytest.param(group, name, setting, marks=marks))
    return parameters


@pytest.mark.usefixtures("files_of_option")
@pytest.mark.parametrize(("group", "name", "setting"), settings_to_try())
def test_a_setting_changes_the_program_its_arguments_or_the_data(group, name, setting):
    path = f"{group}.{setting}"
    run = small_run(group, name) | conditions_of(group, name, setting)
    before = effect_of(run)
    declared = declaration(group, name, setting)
    if declared.traced and not declared.switch:
        # The compiled functions drop arguments that they do not use.
        assert f".{path}" in before.argument_names
    else:
        value = getattr(getattr(make_config(run), group), setting)
        after = effect_of(run | {path: other_value(path, name, value)})
        assert after != before
