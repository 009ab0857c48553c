"""What a run is before it starts: its identity, whether it is there already, and what it can be trained with."""

import dataclasses
import pickle

import pytest

from research.config.schema import Config, Data, Model, Train
from research.runner.run_spec import RunSpec, group_key, read_ended


@pytest.fixture
def member(tmp_path):
    (tmp_path / "study" / "run").mkdir(parents=True)
    return RunSpec(Config(), tmp_path / "study" / "run")


@pytest.mark.parametrize(
    ("content", "ended"),
    [
        ('{"id": "ID", "status": "done"}', True),
        ('{"id": "ID", "status": "diverged"}', True),
        ('{"id": "ID", "status": "running"}', False),
        ('{"id": "ID", "status": "interrupted"}', False),
        ('{"id": "ID", "status": "failed"}', False),
        ('{"id": "ID", "sta', False),
        ("", False),
        (None, False),
    ],
)
def test_a_run_has_ended_if_it_ended_by_itself(member, content, ended):
    if content is not None:
        (member.directory / "run.json").write_text(content.replace("ID", member.identity))
    assert (read_ended(member) is not None) == ended


@pytest.mark.parametrize("status", ["done", "running"])
def test_a_run_of_another_configuration_is_never_taken_for_this_one(member, status):
    other = dataclasses.replace(member, config=Config(seed=3, train=Train(batch_size=64)))
    (member.directory / "run.json").write_text(
        f'{{"id": "{member.identity}", "status": "{status}"}}'
    )
    (member.directory / ".hydra").mkdir()
    (member.directory / ".hydra" / "config.yaml").write_text("seed: 0\ntrain: {batch_size: 64}\n")
    with pytest.raises(
        ValueError, match=r"study/run holds another run \(seed was 0, is 3.*give another name=, or"
    ):
        read_ended(other)


def test_a_run_can_be_handed_to_another_process(member):
    assert pickle.loads(pickle.dumps(member)) == member


ALIKE = [
    {"seed": 1},
    {"name": "x"},
    {"model": Model(dropout=0.2)},
    {"train": Train(input_noise=0.1)},
]
UNLIKE = [
    {"model": Model(depth=17)},
    {"train": Train(steps=5)},
    {"train": Train(eval_every=5)},
    {"data": Data(limit=500)},
]


@pytest.mark.parametrize("changes", ALIKE[:2])
def test_runs_that_differ_in_what_is_passed_in_share_a_program(changes):
    assert group_key(Config(**changes)) == group_key(Config())


@pytest.mark.parametrize("changes", [*UNLIKE, *ALIKE[2:]])
def test_runs_that_differ_otherwise_do_not(changes):
    assert group_key(Config(**changes)) != group_key(Config())


def test_a_number_that_is_not_zero_may_change():
    assert group_key(Config(model=Model(dropout=0.1))) == group_key(
        Config(model=Model(dropout=0.2))
    )


def test_what_does_not_share_a_program_is_not_trained_as_one():
    from research.runner.run_setup import make_run_setup

    with pytest.raises(ValueError, match="differ only in numbers that are passed in"):
        make_run_setup(Config(), Config(model=Model(depth=3)))
    job = make_run_setup(Config(), Config(seed=3))
    assert job.hp["seed"].tolist() == [0, 3]
