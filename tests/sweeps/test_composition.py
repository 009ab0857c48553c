"""Jobs that are composed quickly equal the jobs that Hydra composes."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.fathom_sweeper import FathomSweeperConf
from research.config.hydra_config import register_with_hydra, resolve_settings, resource_dir
from research.runner.run_spec import RunSpec
from research.sweeps.composition import CachingLoader, Composer, format_yaml
from research.sweeps.jobs import expand_jobs, find_unique_jobs, group_jobs

from ..compiling import one_in


class Loaders(NamedTuple):
    hydra: Any  # Hydra's own loader
    composer: Composer
    master: DictConfig  # what all jobs of the sweep have in common


@pytest.fixture(scope="module")
def loaders():
    register_with_hydra()
    words = ["name=x", "hydra.mode=MULTIRUN", "hydra/launcher=grouped", "hydra.launcher.devices=1"]
    with initialize_config_dir(str(resource_dir("conf").absolute()), version_base="1.3"):
        hydra = GlobalHydra.instance().config_loader()
        master = hydra.load_configuration("config", words, run_mode=RunMode.MULTIRUN)
        yield Loaders(hydra, Composer(hydra), master)


VALUES = [
    "seed=3",
    "model.depth=7",
    "optimizer.learning_rate=1e-3",
    "data.limit=100",
    "tracker.project='a b'",
]


def jobs_that_select_every_option():
    """Jobs that each select an option of every group that has options left, and set values.

    An experiment has a job of its own: its settings need the options that it selects. Of these jobs
    all but one in four are slow.
    """
    groups = []
    experiments = []
    for folder in sorted(resource_dir("conf").iterdir()):
        options = []
        for file in sorted(folder.glob("*.yaml")):
            options.append(f"{folder.name}={file.stem}")
        if folder.name == "experiment":
            experiments = options
        elif options:
            groups.append(options)
    jobs = one_in(8, [([experiment, "seed=3"],) for experiment in experiments])
    for row in itertools.zip_longest(*groups):
        options = [option for option in row if option is not None]
        jobs.append(options + VALUES)
    return jobs


UNUSUAL_JOBS = [
    ["model={depth:3}"],
    ["+model.foo=3"],
    ["~debug"],
    ["train.steps=${model.depth}", "model.depth=3"],
    ["skip.kind=identity", "skip=none"],
    [],
]


def name_job(job):
    return " ".join(job)


def to_yaml(config, *, resolve=False):
    return format_yaml(OmegaConf.to_container(config, enum_to_str=True, resolve=resolve))


@pytest.mark.parametrize("job", jobs_that_select_every_option() + UNUSUAL_JOBS, ids=name_job)
def test_the_composed_config_equals_that_of_hydra(loaders, job):
    similar_job = [word.replace("seed=3", "seed=4") for word in job]  # composed from the cache
    for overrides in (job, similar_job):
        expected = loaders.hydra.load_sweep_config(loaders.master, overrides)
        resolve_settings(expected)
        composed = loaders.composer.load_sweep_config(loaders.master, overrides)
        assert to_yaml(composed) == OmegaConf.to_yaml(expected)
        assert composed == expected
        if "+model.foo=3" not in overrides:
            resolved = OmegaConf.to_yaml(composed, resolve=True)
            assert resolved == OmegaConf.to_yaml(expected, resolve=True)


COMMANDS = [
    (["model.depth=3", "hydra.job.name=x"], []),
    (["seed=1", "hydra.mode=RUN"], []),
    (["skip=identity"], ["hydra.mode=RUN"]),
    (["seed=1,2"], ["hydra.mode=MULTIRUN"]),
    (["hydra.mode=RUN", "seed=2"], ["hydra.mode=MULTIRUN"]),
]


@pytest.mark.parametrize(("words", "added"), COMMANDS, ids=str)
def test_what_is_composed_for_the_mode_of_a_command_is_its_configuration(loaders, words, added):
    run_mode = RunMode.MULTIRUN if added == ["hydra.mode=MULTIRUN"] else RunMode.RUN
    expected = loaders.hydra.load_configuration("config", words + added, run_mode)
    loader = CachingLoader(loaders.hydra.config_search_path)
    for_mode = loader.load_configuration(
        "config", words, RunMode.MULTIRUN, validate_sweep_overrides=False
    )
    composed = loader.load_configuration("config", words + added, run_mode)
    again = loader.load_configuration("config", words + added, run_mode)

    assert composed is for_mode
    assert again is not composed
    assert composed == again == expected
    assert OmegaConf.to_yaml(composed) == OmegaConf.to_yaml(expected)


@pytest.mark.parametrize("words", [["model=???"], ["seed=1,2"]], ids=str)
def test_a_command_that_hydra_refuses_is_refused_after_its_mode_was_read(loaders, words):
    loader = CachingLoader(loaders.hydra.config_search_path)
    loader.load_configuration("config", words, RunMode.MULTIRUN, validate_sweep_overrides=False)
    with pytest.raises(ConfigCompositionException) as expected:
        loaders.hydra.load_configuration("config", words, RunMode.RUN)
    with pytest.raises(ConfigCompositionException) as refused:
        loader.load_configuration("config", words, RunMode.RUN)
    assert str(refused.value) == str(expected.value)


@pytest.mark.parametrize("word", ["tags=[1,2]", "tags=7"])
def test_tags_are_recorded_as_texts(loaders, word):
    composed = loaders.composer.load_sweep_config(loaders.master, [word])

    assert composed.tags == [tag for tag in word if tag.isdigit()]


@pytest.mark.parametrize(
    "text",
    [
        "1e-3",
        "true",
        "",
        " x",
        "it's: [a, 'b']",
        "a\nb",
        "\t",
        "ünï 日本",
        "😀",
        "x" * 90 + " y" * 90,
    ],
)
def test_texts_are_written_as_omegaconf_writes_them(text):
    config = OmegaConf.create({"text": text, "list": [text, None, 1e-7, float("inf")]})
    assert to_yaml(config) == OmegaConf.to_yaml(config)


CONSECUTIVE_JOBS = [
    ["seed=1", "data.limit=700"],
    ["seed=2", "data.limit=500"],
    ["train.steps=${model.depth}", "model.depth=3"],
    ["train.steps=null", "model.depth=4"],
    ["model={depth:3}"],
    ["model={width:4}"],
    ["skip=dropout", "skip.rate=0.1"],
    ["skip=stochastic_depth", "skip.rate=0.2"],
    ["seed=1", "+hydra.job.env_set.A=x"],
    ["seed=2", "+hydra.job.env_set.A=y"],
]


def test_what_an_interpolation_stands_for_is_recorded(loaders):
    job = ["seed=${model.width}", "model.width=8", "tags=['w${model.width}']"]
    composed = loaders.composer.load_sweep_config(loaders.master, job)
    recorded = OmegaConf.to_yaml(composed)
    assert "seed: 8\n" in recorded
    assert "tags:\n- w8\n" in recorded


@pytest.mark.parametrize("length", [12, 20])
def test_the_depth_that_fits_the_data_is_recorded(loaders, length):
    job = ["model=rnn", "data=python_docs", f"data.length={length}"]
    assert loaders.composer.load_sweep_config(loaders.master, job).model.depth == length
    assert loaders.composer.make_run_spec(loaders.master, job).config.model.depth == length


def test_a_job_keeps_nothing_of_the_jobs_before_it(loaders):
    for job in CONSECUTIVE_JOBS:
        alone = Composer(loaders.hydra).make_run_spec(loaders.master, job)
        assert loaders.composer.make_run_spec(loaders.master, job) == alone


def test_a_job_keeps_nothing_of_an_invalid_job_before_it(loaders):
    with pytest.raises(ValueError, match="model.depth must be"):
        loaders.composer.make_run_spec(loaders.master, ["seed=9", "model.depth=0"])
    run_spec = loaders.composer.make_run_spec(loaders.master, ["seed=8", "model.depth=2"])
    assert run_spec.config.model.depth == 2


@pytest.mark.parametrize("override", ["model.depht=3", "model.depth=x", "skip=foo", "~seeds"])
def test_what_hydra_refuses_is_refused(loaders, override):
    with pytest.raises(Exception) as expected:
        loaders.hydra.load_sweep_config(loaders.master, [override])
    with pytest.raises(type(expected.value)) as raised:
        loaders.composer.load_sweep_config(loaders.master, [override])
    assert str(raised.value) == str(expected.value)
    assert isinstance(raised.value, ConfigCompositionException) or "skip" in str(raised.value)


def test_each_choice_of_groups_is_composed_once(loaders, monkeypatch):
    calls = []
    load_configuration = Composer.load_configuration

    def counted(*args, **kwargs):
        calls.append(args)
        return load_configuration(*args, **kwargs)

    monkeypatch.setattr(Composer, "load_configuration", counted)
    composer = Composer(loaders.hydra)
    jobs = expand_jobs({"skip": "none,identity"}, arguments=["seed=range(0,50)"])
    identities = set()
    directories = set()
    for job in jobs:
        run_spec = composer.make_run_spec(loaders.master, job)
        identities.add(run_spec.identity)
        directories.add(run_spec.directory)
    assert len(jobs) == len(identities) == len(directories) == 100
    assert len(calls) == 2


def make_run_specs(loaders, jobs):
    return [loaders.composer.make_run_spec(loaders.master, job) for job in jobs]


def test_jobs_that_ask_for_the_same_run_are_one_run(loaders):
    jobs = expand_jobs({}, arguments=["optimizer.learning_rate=0.01,1e-2,0.1"])
    run_specs = make_run_specs(loaders, jobs)
    assert find_unique_jobs(jobs, run_specs) == [0, 2]


def test_different_runs_cannot_share_a_directory(loaders):
    jobs = [["seed=1"], ["seed=2"]]
    run_specs = []
    for run_spec in make_run_specs(loaders, jobs):
        run_specs.append(RunSpec(run_spec.config, Path("x")))
    expected = "seed=1 and seed=2 would both be recorded in x: set hydra.sweep.subdir"
    with pytest.raises(ValueError, match=expected):
        find_unique_jobs(jobs, run_specs)


@pytest.mark.parametrize(
    ("max_group_size", "sizes"),
    [
        (None, [7, 3]),
        (3, [3, 3, 1, 3]),
        (4, [4, 3, 3]),
        (1, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        (100, [7, 3]),
    ],
)
def test_runs_that_differ_in_numbers_form_groups_of_similar_size(loaders, max_group_size, sizes):
    jobs = expand_jobs({}, arguments=["seed=range(0,7)", "model.width=4"])
    jobs += expand_jobs({}, arguments=["seed=range(0,3)", "model.width=8"])
    configs = [run_spec.config for run_spec in make_run_specs(loaders, jobs)]
    groups = group_jobs(dict(enumerate(configs)), max_group_size)
    assert [len(group) for group in groups] == sizes
    assert sorted(itertools.chain(*groups)) == list(range(10))


def test_each_arm_is_a_grid_that_is_combined_with_the_params():
    arms = {
        "deep": {"model.depth": "8,16", "skip": "identity"},
        "wide": {"model.width": 128, "seed": "5"},
    }
    jobs = expand_jobs({"seed": "0,1"}, arms, ["optimizer.learning_rate=0.1"])
    expected = {
        frozenset(["seed=0", "model.depth=8", "skip=identity", "optimizer.learning_rate=0.1"]),
        frozenset(["seed=1", "model.depth=8", "skip=identity", "optimizer.learning_rate=0.1"]),
        frozenset(["seed=0", "model.depth=16", "skip=identity", "optimizer.learning_rate=0.1"]),
        frozenset(["seed=1", "model.depth=16", "skip=identity", "optimizer.learning_rate=0.1"]),
        frozenset(["seed=5", "model.width=128", "optimizer.learning_rate=0.1"]),
    }
    assert len(jobs) == 5
    assert set(map(frozenset, jobs)) == expected


def test_a_file_may_hold_numbers_and_nothing_as_values_of_an_arm():
    grids = {
        "params": {"seed": 3},
        "arms": {"plain": {"model.depth": 8, "loss.chance": None, "data.shuffle": True}},
    }
    sweeper = OmegaConf.merge(OmegaConf.structured(FathomSweeperConf), grids)
    jobs = expand_jobs(sweeper.params, sweeper.arms)
    assert jobs == [["seed=3", "model.depth=8", "loss.chance=null", "data.shuffle=True"]]
