"""A run before it starts: its id, whether it has ended, and which runs share its program."""

import dataclasses
import json
import pickle

import pytest

from research.config.data_options import FolderData, ImageData
from research.config.options import FullyConnected, Train
from research.config.schema import Config
from research.diagnosis.prediction import config_from_settings, with_change
from research.runner.run_setup import make_run_setup
from research.runner.run_spec import RunSpec, group_key, program_key, read_ended


@pytest.fixture
def spec(tmp_path):
    directory = tmp_path / "study" / "run"
    directory.mkdir(parents=True)
    return RunSpec(Config(), directory)


@pytest.mark.parametrize(
    ("content", "has_ended"),
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
def test_a_run_has_ended_if_it_is_done_or_diverged(spec, content, has_ended):
    if content is not None:
        (spec.directory / "run.json").write_text(content.replace("ID", spec.identity))

    assert (read_ended(spec) is not None) == has_ended


@pytest.mark.parametrize("status", ["done", "running"])
def test_a_run_of_another_configuration_is_never_taken_for_this_one(spec, status):
    info = {"id": spec.identity, "status": status}
    (spec.directory / "run.json").write_text(json.dumps(info))
    (spec.directory / ".hydra").mkdir()
    config_file = spec.directory / ".hydra" / "config.yaml"
    config_file.write_text("seed: 0\ntrain: {batch_size: 64}\n")
    other = dataclasses.replace(spec, config=Config(seed=3, train=Train(batch_size=64)))

    message = (
        r"study/run holds another run \(seed was 0, is 3.*give another name= or hydra.run.dir=, or"
    )
    with pytest.raises(ValueError, match=message):
        read_ended(other)


@pytest.mark.parametrize(("folder", "is_valid"), [("study", False), ("photos", True), (".", False)])
def test_a_folder_of_images_must_not_hold_the_record(spec, tmp_path, folder, is_valid):
    (tmp_path / folder).mkdir(exist_ok=True)
    data = FolderData(path=str(tmp_path / folder))
    reading = dataclasses.replace(spec, config=Config(data=data))
    if is_valid:
        assert read_ended(reading) is None
        return
    with pytest.raises(ValueError, match="data.path must not hold the folder of the run"):
        read_ended(reading)


def test_a_run_can_be_sent_to_another_process(spec):
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.parametrize("changes", [{"seed": 1}, {"name": "x"}])
def test_runs_that_differ_in_traced_numbers_share_a_program(changes):
    assert group_key(Config(**changes)) == group_key(Config())


@pytest.mark.parametrize(
    "changes",
    [
        {"model": FullyConnected(width=17)},
        {"train": Train(steps=5)},
        {"train": Train(eval_every=5)},
        {"data": ImageData(limit=500)},
        {"model": FullyConnected(dropout=0.2)},
        {"train": Train(input_noise=0.1)},
    ],
)
def test_runs_that_differ_otherwise_do_not(changes):
    assert group_key(Config(**changes)) != group_key(Config())


def test_dropout_rates_other_than_zero_share_a_program():
    config = Config(model=FullyConnected(dropout=0.1))
    other = Config(model=FullyConnected(dropout=0.2))
    assert group_key(config) == group_key(other)


def test_runs_that_do_not_share_a_program_are_not_trained_as_one():
    wider = Config(model=FullyConnected(width=3))
    with pytest.raises(ValueError, match="differ only in traced settings"):
        make_run_setup(Config(), wider)

    setup = make_run_setup(Config(), Config(seed=3))
    assert setup.hp.seed.tolist() == [0, 3]


def compile_key(*changes, **options):
    """The key of the program of runs that are trained together."""
    return program_key(
        [config_from_settings(with_change({}, change)) for change in changes], **options
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("train.steps=10", "train.steps=20"),
        ("train.epochs=1", "train.epochs=3"),
        ("train.steps=9 train.eval_every=2", "train.steps=9 train.eval_every=3"),
        ("checkpoint.every=1", "checkpoint.every=2"),
        ("seed=0", "seed=1"),
        ("skip=none", "skip=identity"),
        ("model.dropout=0.1", "model.dropout=0.2"),
        ("data.label_noise=0", "data.label_noise=0.5"),
    ],
)
def test_runs_that_differ_in_arguments_of_the_program_are_one_program(first, second):
    assert compile_key(first) == compile_key(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("model.depth=2", "model.depth=4"),  # one after the other; as a group they are one
        ("activation=tanh", "activation=relu"),
        ("model.width=8", "model.width=16"),
        ("model.dropout=0", "model.dropout=0.1"),
        ("train.input_noise=0", "train.input_noise=0.1"),
        ("train.steps=1", "train.steps=2"),
    ],
)
def test_runs_that_are_compiled_otherwise_are_two_programs(first, second):
    assert compile_key(first) != compile_key(second)


def test_groups_of_other_sizes_or_room_are_two_programs():
    assert compile_key("seed=0") != compile_key("seed=0", "seed=1")
    assert compile_key("model.depth=2", "model.depth=4") == compile_key(
        "model.depth=4", "model.depth=3"
    )
    without = {"families": False}
    assert compile_key("skip=none", **without) != compile_key("skip=identity", **without)
