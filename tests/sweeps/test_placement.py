"""The folders of runs: an earlier attempt keeps its own, and no run gets that of another."""

import functools
import json

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from research.config.hydra_config import register_with_hydra, resource_dir
from research.sweeps.composition import Composer
from research.sweeps.placement import place_jobs


@pytest.fixture(scope="module")
def load():
    """Gives the composer of a sweep, and what its jobs have in common; each is loaded once."""
    register_with_hydra()
    with initialize_config_dir(str(resource_dir("conf").absolute()), version_base="1.3"):
        hydra = GlobalHydra.instance().config_loader()

        @functools.cache
        def load(*extra):
            words = ["hydra.mode=MULTIRUN", *extra]
            master = hydra.load_configuration("config", words, run_mode=RunMode.MULTIRUN)
            return Composer(hydra), master

        yield load


@pytest.fixture
def place(load, workplace):
    """Gives the runs of a sweep in the study ``study``, in which nothing is trained."""

    def place(*jobs, extra=()):
        composer, master = load(*extra)
        words_of_jobs = [["name=study", *job.split()] for job in jobs]
        placed = place_jobs(words_of_jobs, composer, master)
        return [composer.make_run_spec(master, job) for job in placed]

    return place


@pytest.fixture
def record(place, workplace):
    """Records a run in a folder, as if it had been trained with these overrides."""

    def record(folder, overrides):
        (run_spec,) = place(overrides)
        directory = workplace / "outputs" / "study" / folder
        (directory / ".hydra").mkdir(parents=True)
        (directory / "run.json").write_text(json.dumps({"id": run_spec.identity}))
        (directory / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides.split()))

    return record


def names(run_specs):
    return [run_spec.directory.name for run_spec in run_specs]


def test_a_run_keeps_its_folder_when_its_sweep_grows(place, record):
    small = ("model.depth=4 model.width=8", "model.depth=6 model.width=8")
    assert names(place(*small)) == ["depth=4", "depth=6"]
    record("depth=4", small[0])

    larger = [f"{job} seed={seed}" for job in small for seed in (0, 1)]
    expected = ["depth=4", "depth=4,seed=1", "depth=6,seed=0", "depth=6,seed=1"]
    assert names(place(*larger)) == expected
    assert len({run_spec.identity for run_spec in place(*larger)}) == 4


@pytest.mark.parametrize(
    "values",
    [
        ("model.depth=1", "model.depth=01"),
        ("model.bias=true", "model.bias=yes"),
        ("optimizer.schedule=cosine", "optimizer.schedule=cosine_decay"),
    ],
    ids=str,
)
def test_two_words_for_one_value_are_one_run(place, values):
    first, second = place(*values)
    assert first.identity == second.identity
    assert first.directory == second.directory


def test_a_folder_that_an_earlier_version_named_is_found(place, record):
    record("model.depth=4,model.width=8,seed=0-75a1c7b4", "model.depth=4 model.width=8 seed=0")
    jobs = ["model.depth=4 model.width=8 seed=0", "model.depth=4 model.width=8 seed=1"]
    assert names(place(*jobs)) == ["model.depth=4,model.width=8,seed=0-75a1c7b4", "seed=1"]


def test_two_sweeps_of_one_study_with_other_constants_do_not_meet(place, record):
    for depth in (4, 6):
        record(f"depth={depth}", f"model.depth={depth} model.width=8")

    wider = place("model.depth=4 model.width=16", "model.depth=6 model.width=16")
    assert names(wider) == ["depth=4,width=16", "depth=6,width=16"]

    first, second = place("model.depth=4", "model.depth=6")
    assert first.directory.name == f"depth=4-{first.identity[:8]}"
    assert second.directory.name == f"depth=6-{second.identity[:8]}"


def test_a_command_whose_meaning_has_changed_is_not_given_another_folder(place, record, workplace):
    record("depth=4", "model.depth=4")
    (workplace / "outputs" / "study" / "depth=4" / "run.json").write_text('{"id": "another"}')
    assert names(place("model.depth=4")) == ["depth=4"]


def test_a_name_that_the_user_chose_stays(place, record):
    record("depth=4", "model.depth=4")
    chosen = place("model.depth=4", extra=["hydra.sweep.subdir=mine"])
    assert names(chosen) == ["mine"]
