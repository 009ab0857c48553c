"""The files below ``conf/``: every option composes, and every experiment trains.

Experiments at the scale of their papers are in tests/reproduce/test_scale.py.
"""

import functools
import json
from pathlib import Path

import pytest
import yaml
from hydra.types import RunMode

from research.config.hydra_config import resource_dir, to_config
from research.config.schema import OPTIONS, Config, flatten, selector_of
from research.config.validation import check_config
from research.records.runs import flatten_dict
from research.sweeps.composition import Composer
from research.sweeps.jobs import expand_jobs, find_unique_jobs

from ..compiling import one_in
from ..composing import caching_loader, compose
from ..described import own_data as own_data

CONF = resource_dir("conf")
WANDB_SWEEP = Path(__file__).parents[2] / "docs" / "examples" / "wandb_sweep.yaml"
FILES = sorted(CONF.glob("*/*.yaml"))
EXPERIMENTS = [file.stem for file in FILES if file.parent.name == "experiment"]
DIFFERENCES = ("experiment", "debug")  # groups whose files hold differences from the default
PRESETS = {("model", "linear")}  # options that set more than their group
NEEDED = {  # what an option needs to be allowed
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


def files_of(*groups):
    """The files of some groups, as pairs of group and option."""
    return [(file.parent.name, file.stem) for file in FILES if file.parent.name in groups]


ALL_GROUPS = {file.parent.name for file in FILES}
OPTION_FILES = files_of(*ALL_GROUPS.difference(DIFFERENCES))


@functools.cache
def composed(*overrides):
    """The checked configuration of a command line."""
    return to_config(compose(*overrides))


def differing_paths(one, other):
    """The settings whose values differ between two flat configurations with the same settings."""
    assert one.keys() == other.keys()
    return {path for path in one if one[path] != other[path]}


def test_every_group_with_options_is_a_folder_and_every_folder_a_group():
    assert set(OPTIONS) | {"tracker", *DIFFERENCES} == ALL_GROUPS


@pytest.mark.parametrize("group", OPTIONS)
def test_every_option_has_a_file_and_every_file_an_option(group):
    names = {name for of_group, name in files_of(group) if (of_group, name) not in PRESETS}
    assert names == set(OPTIONS[group])


@pytest.mark.parametrize(("group", "name"), OPTION_FILES)
@pytest.mark.usefixtures("own_data")
def test_every_option_composes(group, name):
    config = composed(f"{group}={name}", *NEEDED.get((group, name), ()))
    if group in OPTIONS and (group, name) not in PRESETS:
        option = getattr(config, group)
        assert type(option) is OPTIONS[group][name]
        assert getattr(option, selector_of(group)).name == name


@pytest.mark.parametrize(("group", "name"), files_of(*DIFFERENCES))
def test_every_file_of_differences_composes(group, name):
    config = composed(f"{group}={name}")
    assert check_config(config) is None


@pytest.mark.parametrize("name", OPTIONS["skip"])
def test_an_option_leaves_other_groups_alone(name):
    needed = NEEDED.get(("skip", name), ())
    before = flatten(composed(*needed, "skip=identity"))
    after = flatten(composed(*needed, f"skip={name}"))
    assert drop_group(before, "skip") == drop_group(after, "skip")


def drop_group(settings, group):
    return {path: value for path, value in settings.items() if not path.startswith(f"{group}.")}


def test_the_composed_default_is_that_of_the_schema_except_for_the_tracker():
    """Code that makes a Config does not want a tracker unless it says so."""
    default = drop_group(flatten(composed()), "tracker")
    assert default == drop_group(flatten(Config()), "tracker")
    assert composed().tracker.wandb
    assert not Config().tracker.wandb


def test_the_settings_of_no_group_are_typed():
    config = composed("seed=3", "name=4")
    assert config.seed == 3
    assert config.name == "4"


def test_a_deep_linear_network_is_the_mlp_without_nonlinearity():
    mlp = flatten(composed())
    linear = flatten(composed("model=linear"))
    assert differing_paths(mlp, linear) == {"activation.kind"}
    assert linear["activation.kind"] == "linear"


@pytest.mark.parametrize("position", [0, -1], ids=["smallest", "greatest"])
def test_the_sweep_of_wandb_runs_our_command_on_settings_that_exist(position):
    sweep = yaml.safe_load(WANDB_SWEEP.read_text())
    *command, name, arguments = sweep["command"]
    assert command == ["${env}", "fathom", "train"]
    assert arguments == "${args_no_hyphens}"
    assert sweep["metric"]["name"] == "eval/loss"
    overrides = [name]
    for path, space in sweep["parameters"].items():
        values = space["values"] if "values" in space else [space["min"], space["max"]]
        overrides.append(f"{path}={values[position]}")
    assert check_config(composed(*overrides)) is None


def test_files_hold_values_and_no_interpolation():
    for file in FILES:
        text = file.read_text()
        assert "_target_" not in text, file
        assert "${" not in text, file


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_states_only_differences_below_its_claim(name):
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    package, claim = text.splitlines()[:2]
    settings = yaml.safe_load(text)
    assert package == "# @package _global_"
    assert claim.startswith("# ")
    assert settings.pop("name") == name
    settings.pop("hydra", None)
    options = []
    for part in settings.pop("defaults", []):
        for key, option in part.items():
            options.append(f"{key.split('/')[-1]}={option}")
    without = flatten(composed(*options))
    for path, value in flatten_dict(settings).items():
        assert without[path] != value, path


@functools.cache
def plan(name):
    """The jobs of an experiment, checked as by the sweeper, without duplicates."""
    composer = Composer(caching_loader())
    arguments = [f"experiment={name}", "tracker=none"]
    master = composer.load_configuration("config", arguments, run_mode=RunMode.MULTIRUN)
    sweeper = master.hydra.sweeper
    jobs = expand_jobs(sweeper.params or {}, sweeper.arms, arguments, composer)
    run_specs = [composer.make_run_spec(master, job) for job in jobs]
    return [jobs[number] for number in find_unique_jobs(jobs, run_specs)]


@pytest.mark.parametrize("name", one_in(3, [(name,) for name in EXPERIMENTS]))
def test_all_jobs_of_an_experiment_pass(name):
    assert plan(name)


# With and without gauges, of text, with inspections; ``make demo`` trains another one.
ALWAYS_TRAINED = (
    "degradation",
    "edge_of_stability",
    "norm_placement",
)


def mark_slow_except(always, names):
    """All names as parameters of a test; those that do not always run are slow."""
    parameters = []
    for name in names:
        marks = [] if name in always else [pytest.mark.slow]
        parameters.append(pytest.param(name, marks=marks))
    return parameters


@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.parametrize("name", mark_slow_except(ALWAYS_TRAINED, EXPERIMENTS))
def test_the_first_job_of_an_experiment_runs_two_steps(fathom, workplace, name):
    job = plan(name)[0]
    result = fathom("train", *job, "train.steps=2", "hydra.mode=RUN")
    assert result.code == 0, result.err
    (run,) = workplace.glob(f"outputs/{name}/*/run.json")
    assert json.loads(run.read_text())["steps"] == 2
