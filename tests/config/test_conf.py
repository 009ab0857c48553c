import enum
import functools
import sys

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins

from research.config import schema as config
from research.config.hydra_config import register, resource_dir, to_config
from research.config.validation import check
from research.records.runs import flatten_dict

from ..described import own_data as own_data

CONF = resource_dir("conf")
FILES = [file for file in sorted(CONF.glob("*/*.yaml")) if file.parent.name != "wandb"]  # W&B's own
OPTIONS = [(file.parent.name, file.stem) for file in FILES]
EXPERIMENTS = [option for group, option in OPTIONS if group == "experiment"]
PRESETS = {("model", "linear")}  # options that set more than their group
COMPANIONS = {  # what an option needs beside it
    ("skip", "deepnorm"): ("model=transformer", "norm=layer", "norm.placement=post"),
    ("init", "delta_orthogonal"): ("model=cnn",),
    ("data", "python_docs"): ("model=transformer",),
    ("data", "tiny_shakespeare"): ("model=transformer",),
    ("data", "imdb_reviews"): ("model=transformer",),
    ("data", "trec"): ("model=transformer",),
    ("data", "function"): ("loss=mse",),
    ("data", "folder"): ("data.path=photos",),
    ("data", "arrays"): ("data.path=mine.npz",),
    ("data", "tfds"): ("data.dataset=kmnist",),
}


def choices():
    """Of every group with options: the setting that names the option, and the options that the schema has."""
    found = {}
    for path, _, value in config.iter_fields(config.Config()):
        group, _, name = path.partition(".")
        if isinstance(value, enum.Enum) and name in ("kind", "name", "level"):
            found[group] = name, {option.name for option in type(value)}
    return found


CHOICES = choices()


@functools.cache
def composed(*overrides):
    """The checked configuration of a command line."""
    register()
    with initialize_config_dir(str(CONF.absolute()), version_base="1.3"):
        return to_config(compose("config", list(overrides)))


def test_every_group_with_options_is_known():
    assert set(CHOICES) | {"tracker", "experiment", "debug"} == {group for group, _ in OPTIONS}


@pytest.mark.parametrize("group", CHOICES)
def test_every_option_has_a_file_and_every_file_an_option(group):
    files = {option for of, option in OPTIONS if of == group and (group, option) not in PRESETS}
    assert files == CHOICES[group][1]


@pytest.mark.parametrize(
    ("group", "option"), [option for option in OPTIONS if option[0] not in ("experiment", "debug")]
)
@pytest.mark.usefixtures("own_data")
def test_every_option_composes(group, option):
    chosen = composed(f"{group}={option}", *COMPANIONS.get((group, option), ()))
    check(chosen)
    if group in CHOICES and (group, option) not in PRESETS:
        assert getattr(getattr(chosen, group), CHOICES[group][0]).name == option


@pytest.mark.parametrize(
    ("group", "option"), [option for option in OPTIONS if option[0] in ("experiment", "debug")]
)
def test_every_file_of_differences_composes(group, option):
    assert check(composed(f"{group}={option}")) is None


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "skip"])
def test_an_option_leaves_other_groups_alone(option):
    companions = COMPANIONS.get(("skip", option), ())
    default, chosen = (
        config.flatten(composed(*companions, *words))
        for words in (["skip=identity"], [f"skip={option}"])
    )
    assert all(path.startswith("skip.") for path in default if default[path] != chosen[path])


def test_the_composed_default_is_that_of_the_schema():
    """But for the tracker, which code that makes a Config does not want by itself."""
    default = config.flatten(composed())
    schema = config.flatten(config.Config())
    assert {path for path in default if default[path] != schema[path]} == {"tracker.wandb"}


def test_a_deep_linear_network_is_the_mlp_without_nonlinearity():
    plain = config.flatten(composed())
    linear = config.flatten(composed("model=linear"))
    assert {path: linear[path] for path in plain if plain[path] != linear[path]} == {
        "activation.kind": "linear"
    }


@pytest.mark.parametrize("file", sorted(CONF.glob("wandb/*.yaml")), ids=str)
def test_a_search_of_wandb_runs_our_command_on_settings_that_there_are(file):
    search = yaml.safe_load(file.read_text())
    *command, name, arguments = search["command"]
    assert command == ["${env}", "fathom", "train"] and arguments == "${args_no_hyphens}"
    assert search["metric"]["name"] == "eval/loss"
    ends = [
        [space[end] for end in ("min", "max")] if "min" in space else space["values"]
        for space in search["parameters"].values()
    ]
    for which in (0, -1):
        check(
            composed(
                name,
                *(
                    f"{path}={end[which]}"
                    for path, end in zip(search["parameters"], ends, strict=True)
                ),
            )
        )


def test_files_hold_values_and_no_interpolation():
    for file in FILES:
        assert "_target_" not in file.read_text() and "${" not in file.read_text(), file


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_states_differences_below_its_claim(name):
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    package, claim = text.splitlines()[:2]
    assert package == "# @package _global_" and claim.startswith("# ")
    settings = yaml.safe_load(text)
    assert settings.pop("name") == name
    chosen = [
        f"{key.split('/')[-1]}={option}"
        for part in settings.pop("defaults", [])
        for key, option in part.items()
    ]
    settings.pop("hydra", None)
    without = config.flatten(composed(*chosen))
    assert not {
        path: value for path, value in flatten_dict(settings).items() if without[path] == value
    }


@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_all_jobs_of_an_experiment_pass_and_the_first_runs_two_steps(
    fathom, workplace, monkeypatch, name
):
    planned = []
    Plugins.instance()  # loads the sweeper anew
    with monkeypatch.context() as patch:
        sweeper = sys.modules["hydra_plugins.fathom_sweeper"].FathomSweeper
        ended = {"directory": "nowhere", "status": "done"}
        patch.setattr(
            sweeper, "launch_jobs", lambda _, jobs: planned.extend(jobs) or [ended] * len(jobs)
        )
        assert fathom("train", f"experiment={name}", "tracker=none").code == 0
    assert planned and len({tuple(sorted(job)) for job in planned}) == len(planned)
    said = fathom(
        "train",
        f"experiment={name}",
        *planned[0],
        "train.steps=2",
        "tracker=none",
        "hydra.mode=RUN",
    )
    assert said.code == 0, said.err
    (run,) = workplace.glob(f"outputs/{name}/*/run.json")
    assert yaml.safe_load(run.read_text())["steps"] == 2
