"""From the command line to runs: what a process shares among its runs, and what two processes make of one run."""

import gc
import json

import pyarrow.parquet as pq
import pytest

from research.config.schema import Checkpoint, Config, Model, Tracker, Train
from research.parallel import processes
from research.records.record import RunLocked, RunRecord, is_being_written
from research.records.runs import Run
from research.runner import session
from research.runner.group import RunGroup
from research.runner.run_spec import RunSpec
from research.runner.session import Session
from research.training.checkpoint import Checkpoints

STEPS = 25


def test_garbage_is_collected_again_also_where_jax_cannot_be_imported(monkeypatch, tmp_path):
    def absent(_):
        raise ImportError("no jax here")

    monkeypatch.setattr(session, "prepare_jax", absent)
    (result,) = session.train_group([RunSpec(Config(), tmp_path / "run")], Session())
    assert str(result["error"]) == "no jax here" and gc.isenabled()


@pytest.fixture
def member(tmp_path):
    kept = {"tracker": Tracker(wandb=False), "checkpoint": Checkpoint(every=1e-9)}
    config = Config(model=Model(depth=2, width=8), train=Train(steps=STEPS, eval_every=5), **kept)
    return RunSpec(config, tmp_path / "study" / "run", {".hydra/config.yaml": "seed: 0\n"})


def contents(member):
    """Every file of the run, and when it was written."""
    files = [file for file in member.directory.rglob("*") if file.is_file()]
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def interrupted(member):
    """Trains some of the steps and leaves a checkpoint."""
    take = RunGroup.take

    def until(group, start, *rest):
        processes._Signals.pending = start > 0
        take(group, start, *rest)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunGroup, "take", until)
        session.train_group([member], Session())
    assert (
        Checkpoints(member.directory).exist
        and Run(member.directory).info["status"] == "interrupted"
    )


def test_a_run_that_another_process_ends_behind_the_look_is_left_as_it_is(member, monkeypatch):
    look = session.read_ended
    left = []

    def slowly(member):
        found = look(member)
        if not left:
            left.append(None)
            assert (
                session.train_group([member], Session())[0]["status"] == "done"
            )  # the other process, from beginning to end
            left.append(contents(member))
        return found

    monkeypatch.setattr(session, "read_ended", slowly)
    (second,) = session.train_group([member], Session())
    assert second["already"] and second["status"] == "done" and "error" not in second
    assert contents(member) == left[1] and not is_being_written(member.directory)


@pytest.mark.parametrize("begin", [lambda member: None, interrupted], ids=["new", "interrupted"])
def test_who_comes_second_is_refused_and_changes_nothing(member, monkeypatch, begin):
    """Also while the first one has not yet written that it is at it."""
    begin(member)
    read = Checkpoints.read
    seen = []

    def found_out(checkpoints, form):
        before = contents(member)
        seen.append(session.train_group([member], Session())[0])  # the other process
        seen.append(contents(member) == before)
        return read(checkpoints, form)

    monkeypatch.setattr(Checkpoints, "read", found_out)
    (first,) = session.train_group([member], Session())
    refused, unchanged = seen
    assert isinstance(refused["error"], RunLocked) and unchanged
    assert first["status"] == "done" and ("resumed" in first) == (begin is interrupted)
    assert Run(member.directory).metrics["step"].tolist() == list(range(STEPS))


def test_a_run_is_locked_until_nothing_of_it_is_left_to_write(member, monkeypatch):
    seen = []

    def watched(owner, name):
        method = getattr(owner, name)

        def look(*args, **named):
            method(*args, **named)
            told = json.loads((member.directory / "run.json").read_text())["status"]
            seen.append((name, told, is_being_written(member.directory)))

        monkeypatch.setattr(owner, name, look)

    watched(RunRecord, "close")
    watched(Checkpoints, "remove")
    session.train_group([member], Session())
    assert seen == [("close", "done", True), ("remove", "done", True)]
    assert not is_being_written(member.directory) and not Checkpoints(member.directory).exist


@pytest.mark.slow
def test_of_two_processes_started_together_one_trains_the_run(workplace, process, trained, small):
    command = [*small, "train.steps=200", "tracker=none", "name=x", "checkpoint.every=1e-9"]
    both = [process("-m", "research", "train", *command) for _ in range(2)]
    said = [one.communicate()[1] for one in both]
    codes = sorted(one.returncode for one in both)
    assert codes in ([0, 0], [0, 2]), said
    assert codes == [0, 0] or any("is being trained by another process" in each for each in said), (
        said
    )
    (file,) = workplace.glob("outputs/x/*/run.json")
    whole, _ = trained("train.steps=200")
    for name in ("metrics", "profiles"):
        assert pq.read_table(file.parent / f"{name}.parquet").equals(
            pq.read_table(whole.directory / f"{name}.parquet")
        )
    assert sorted(each.name for each in file.parent.iterdir()) == sorted(
        f.name for f in whole.directory.iterdir()
    )
