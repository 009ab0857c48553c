"""Runs of earlier versions: today's commands find them, list them and continue them."""

import json

import pytest
import yaml

from research.records.mirror import choose_wandb_id
from research.records.runs import Run
from research.runner.run_spec import RunSpec, identity_of
from research.training.checkpoint import Checkpoints, InvalidCheckpoint

SMALL = ("model.depth=2", "model.width=8", "tracker.wandb=false", "checkpoint.keep=true")
LACKING = ("model.parametrization", "init.layer", "diagnose", "optimizer.frozen_layer")
EARLIER_ID = "0123456789ab"
ALREADY = "This run already finished, so nothing was trained."
OTHER_FORMAT = "an earlier version of Fathom wrote it in another format"


@pytest.fixture
def train(fathom, workplace, quickly_compiled):
    """Trains runs of the study ``study``; gives what the command wrote."""

    def train(*words, mode=()):
        said = fathom("train", *mode, *SMALL, "name=study", *words)
        assert said.code == 0, said.err
        return said.out + said.err

    return train


@pytest.fixture
def find(workplace):
    """Gives the runs of the study."""

    def find():
        files = sorted(workplace.glob("outputs/study/*/run.json"))
        return [Run(file.parent) for file in files]

    return find


@pytest.fixture
def old(train, find, monkeypatch):
    """A finished run of version 0.2.0, which had fewer settings and thus gave it another id."""
    with monkeypatch.context() as patch:
        patch.setattr(RunSpec, "identity", property(lambda spec: EARLIER_ID))
        train("train.steps=2")
    (run,) = find()
    file = run.directory / ".hydra" / "config.yaml"
    settings = yaml.safe_load(file.read_text())
    for path in LACKING:
        group, _, name = path.partition(".")
        if name:
            del settings[group][name]
        else:
            del settings[group]
    file.write_text(yaml.safe_dump(settings))
    change_info(run, started=None)
    return Run(run.directory)


@pytest.fixture
def lacking_entry(monkeypatch):
    """Every checkpoint lacks an entry, as one of version 0.2.0 does."""

    def read(checkpoints, expected_specs):
        raise InvalidCheckpoint("it cannot be read (KeyError)") from KeyError("notes")

    monkeypatch.setattr(Checkpoints, "read", read)


def change_info(run, **changes):
    """Changes entries of ``run.json``; None removes one."""
    file = run.directory / "run.json"
    info = json.loads(file.read_text()) | changes
    kept = {name: value for name, value in info.items() if value is not None}
    file.write_text(json.dumps(kept))


def rows_of(run):
    return (run.directory / "metrics.parquet").read_bytes()


def test_the_same_command_finds_a_finished_run(train, find, old):
    assert identity_of(old.directory, old.info) != EARLIER_ID

    assert ALREADY in train("train.steps=2", "tags=[old]")

    (after,) = find()
    assert after.info == old.info | {"tags": ["old"]}


def test_it_is_not_taken_for_another_run(train, find, old):
    train("train.steps=2", "model.bias=false")
    assert len(find()) == 2


def test_a_folder_that_holds_another_run_is_named_with_the_settings_that_differ(fathom, old):
    folder = f"hydra.run.dir='{old.directory}'"
    said = fathom("train", *SMALL, "name=study", "train.steps=2", "model.bias=false", folder)
    assert said.code == 2
    assert "holds another run (model.bias was True, is False)" in said.err


def test_a_larger_sweep_finds_it_and_no_column_shows_what_it_lacks(train, find, fathom, old):
    before = rows_of(old)

    assert "1 of 2 runs to train" in train("train.steps=2", "seed=0,1", mode=["-m"])

    assert len(find()) == 2
    assert rows_of(old) == before
    header = fathom("runs", "study").out.splitlines()[0]
    assert header.startswith("seed status steps")
    assert "over 2 seeds" in fathom("table", "study").out


def test_more_steps_continue_a_kept_state(train, find, old):
    train("train.steps=4")

    (longer,) = [run for run in find() if run.num_steps == 4]
    assert longer.info["continues"] == {"run": old.directory.name, "step": 2}


def test_an_interrupted_run_goes_on_in_its_folder(train, find, old):
    change_info(old, status="interrupted")

    assert "resumes at step 2/2" in train("train.steps=2")

    (after,) = find()
    assert after.info["status"] == "done"
    change_info(old, status="interrupted")  # before it has written another checkpoint
    assert "resumes at step 2/2" in train("train.steps=2")
    assert ALREADY in train("train.steps=2")


@pytest.mark.usefixtures("lacking_entry")
def test_an_interrupted_run_whose_checkpoint_has_another_format_begins_anew(train, find, old):
    change_info(old, status="interrupted")

    assert f"its checkpoint cannot be used: {OTHER_FORMAT}" in train("train.steps=2")

    (after,) = find()
    assert after.directory == old.directory
    assert after.info["status"] == "done"
    assert after.info["id"] != EARLIER_ID
    assert ALREADY in train("train.steps=2")


@pytest.mark.usefixtures("lacking_entry")
@pytest.mark.parametrize("is_earlier", [True, False])
def test_only_a_checkpoint_of_an_earlier_version_is_said_to_have_another_format(
    fathom, old, is_earlier
):
    if not is_earlier:
        change_info(old, started="2026-11-28T05:00:00.000000+00:00")

    said = fathom("landscape", str(old.directory))

    assert said.code == 2
    reason = OTHER_FORMAT if is_earlier else "it cannot be read (KeyError)"
    assert said.err.strip().endswith(f"cannot be used: {reason}")


def test_a_run_that_goes_on_keeps_its_run_in_wandb(tmp_path):
    data = {"fingerprint": "0123456789abcdef"}
    mirrored = {"wandb": {"state": "pending", "run": {"id": EARLIER_ID}}}
    earlier = {"id": EARLIER_ID, "data": data, "mirrored": mirrored}
    (tmp_path / "run.json").write_text(json.dumps(earlier))
    started = {"id": "bbbbbbbbbbbb", "data": data}

    assert choose_wandb_id(tmp_path, started).value == "bbbbbbbbbbbb"
    assert choose_wandb_id(tmp_path, started | {"earlier_id": EARLIER_ID}).value == EARLIER_ID
