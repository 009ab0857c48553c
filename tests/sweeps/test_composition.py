"""Jobs composed cheaply are the jobs that Hydra composes."""

import itertools
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf

from research.config.hydra_config import register, resource_dir
from research.runner.run_spec import RunSpec
from research.sweeps.composition import Composer
from research.sweeps.jobs import groups_of, jobs_of, without_doubles


@pytest.fixture(scope="module")
def loaders():
    """Hydra's loader, ours, and what a sweep starts from."""
    register()
    with initialize_config_dir(str(resource_dir("conf").absolute()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        words = ["name=x", "hydra/launcher=grouped", "hydra.launcher.devices=1"]
        yield (
            loader,
            Composer(loader),
            loader.load_configuration("config", words, run_mode=RunMode.MULTIRUN),
        )


def options():
    """Jobs that choose every option of every group between them, one of each group at a time."""
    groups = sorted(path for path in resource_dir("conf").iterdir() if path.is_dir())
    chosen = [
        [f"{group.name}={file.stem}" for file in sorted(group.glob("*.yaml"))]
        for group in groups
        if group.name != "wandb"
    ]
    return [
        [option for option in row if option]
        for row in itertools.zip_longest(*[row for row in chosen if row])
    ]


VALUES = [
    "seed=3",
    "model.depth=7",
    "optimizer.learning_rate=1e-3",
    "data.shape=[3,4]",
    "tracker.project='a b'",
]
ODD = [
    ["model={depth:3}"],
    ["+model.foo=3"],
    ["~debug"],
    ["train.steps=${model.depth}", "model.depth=3"],
    ["skip.kind=identity", "skip=none"],
    [],
]


@pytest.mark.parametrize("job", [*(row + VALUES for row in options()), *ODD], ids=" ".join)
def test_what_is_composed_is_what_hydra_composes(loaders, job):
    hydra, ours, master = loaders
    for overrides in (
        job,
        [word.replace("seed=3", "seed=4") for word in job],
    ):  # the second one from what is kept
        expected, composed = (
            loader.load_sweep_config(master, overrides) for loader in (hydra, ours)
        )
        assert OmegaConf.to_yaml(composed) == OmegaConf.to_yaml(expected)
        assert composed == expected
        if "+model.foo=3" not in overrides:
            assert OmegaConf.to_yaml(composed, resolve=True) == OmegaConf.to_yaml(
                expected, resolve=True
            )


ONE_BEHIND_ANOTHER = [
    ["seed=1", "data.shape=[3,4]"],
    ["seed=2", "data.shape=[5]"],
    ["train.steps=${model.depth}", "model.depth=3"],
    ["train.steps=null", "model.depth=4"],
    ["model={depth:3}"],
    ["model={width:4}"],
    ["skip=identity", "skip.rate=0.1"],
    ["skip=none", "skip.rate=0.2"],
    ["seed=1", "+hydra.job.env_set.A=x"],
    ["seed=2", "+hydra.job.env_set.A=y"],
]


def test_a_job_keeps_nothing_of_the_jobs_before_it(loaders):
    hydra, ours, master = loaders
    alone = [Composer(hydra).checked(master, job) for job in ONE_BEHIND_ANOTHER]
    assert [ours.checked(master, job) for job in ONE_BEHIND_ANOTHER] == alone
    with pytest.raises(ValueError, match="model.depth must be"):
        ours.checked(master, ["seed=9", "model.depth=0"])
    assert ours.checked(master, ["seed=8", "model.depth=2"]).config.model.depth == 2


@pytest.mark.parametrize("job", [["model.depht=3"], ["model.depth=x"], ["skip=foo"], ["~seeds"]])
def test_what_hydra_refuses_is_refused(loaders, job):
    hydra, ours, master = loaders
    with pytest.raises(Exception) as of_hydra:
        hydra.load_sweep_config(master, job)
    with pytest.raises(type(of_hydra.value)) as of_ours:
        ours.load_sweep_config(master, job)
    assert str(of_ours.value) == str(of_hydra.value)
    assert isinstance(of_ours.value, ConfigCompositionException) or "skip" in str(of_ours.value)


def test_each_choice_of_groups_is_composed_once(loaders, monkeypatch):
    hydra, _, master = loaders
    calls = []
    compose = Composer.load_configuration
    monkeypatch.setattr(
        Composer, "load_configuration", lambda *args, **kw: calls.append(1) or compose(*args, **kw)
    )
    ours = Composer(hydra)
    jobs = jobs_of({"skip": "none,identity"}, arguments=["seed=range(0,50)"])
    members = [ours.checked(master, job) for job in jobs]
    assert (
        len(jobs)
        == len({member.identity for member in members})
        == len({m.directory for m in members})
        == 100
    )
    assert len(calls) == 2


def test_the_same_run_asked_for_twice_is_one_run(loaders):
    _, ours, master = loaders
    jobs = jobs_of({}, arguments=["optimizer.learning_rate=0.01,1e-2,0.1"])
    members = [ours.checked(master, job) for job in jobs]
    assert without_doubles(jobs, members) == [0, 2]
    with pytest.raises(ValueError, match="would both be recorded in x: hydra.sweep.subdir"):
        without_doubles(jobs, [RunSpec(member.config, Path("x")) for member in members])


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(None, [7, 3]), (3, [3, 3, 1, 3]), (4, [4, 3, 3]), (1, [1] * 10), (100, [7, 3])],
)
def test_runs_that_differ_in_numbers_form_groups_of_like_size(loaders, most, sizes):
    _, ours, master = loaders
    jobs = jobs_of({}, arguments=["seed=range(0,7)", "model.depth=2"]) + jobs_of(
        {}, arguments=["seed=range(0,3)", "model.depth=3"]
    )
    groups = groups_of(
        {number: ours.checked(master, job).config for number, job in enumerate(jobs)}, most
    )
    assert [len(group) for group in groups] == sizes
    assert sorted(itertools.chain(*groups)) == list(range(10))


def test_arms_are_grids_of_their_own_beside_what_they_share():
    arms = {
        "deep": {"model.depth": "8,16", "skip": "identity"},
        "wide": {"model.width": 128, "seed": "5"},
    }
    jobs = jobs_of({"seed": "0,1"}, arms, ["optimizer.learning_rate=0.1"])
    deep = [["model.depth=8", "skip=identity"], ["model.depth=16", "skip=identity"]]
    expected = [["seed=" + seed, *settings] for seed in "01" for settings in deep] + [
        ["seed=5", "model.width=128"]
    ]
    wanted = {frozenset([*job, "optimizer.learning_rate=0.1"]) for job in expected}
    assert len(jobs) == 5 and {frozenset(job) for job in jobs} == wanted
