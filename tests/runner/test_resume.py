"""A run or a sweep whose process dies or is told to end, and what the same command makes of it."""

import contextlib
import os
import signal

import pyarrow.parquet as pq
import pytest

from research.records.runs import Run
from research.runner.group import RunGroup

KILLED = """
import os, signal, sys
from research.cli import main as cli
from research.runner.group import Group

from research.training import checkpoint

checkpoint.REST = 0
take = Group.take

def dies(self, start, *rest):
    take(self, start, *rest)
    if self.job.spec.architecture.depth == 3 and start >= 10:
        if {checkpointed}:
            self._writer.wait()
        os.kill(os.getpid(), signal.SIGKILL)

Group.take = dies
sys.exit(cli.run(sys.argv[1:]))
"""
COUNTED = """
import sys
import jax
from research.cli import main as cli

seen = []
jax.monitoring.register_event_listener(lambda event, **_: seen.append(event))
code = cli.run(sys.argv[1:])
cache = "/jax/compilation_cache/cache_"
print("misses", seen.count(cache + "misses"), "hits", seen.count(cache + "hits"))
sys.exit(code)
"""
GRID = [
    "train",
    "-m",
    "model.depth=2,3",
    "seed=0,1",
    "model.width=8",
    "train.steps=25",
    "name=study",
]
TABLES = ("metrics", "profiles")
GROUPED = [*GRID, "hydra/launcher=grouped"]


def runs_in(place):
    return {file.parent.name: Run(file.parent) for file in place.glob("outputs/study/*/run.json")}


def steps_of(records):
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    return [row["train/step"] for row in rows if "train/loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [True, False])
def test_a_killed_sweep_is_completed_by_the_same_command(
    workplace, process, fathom, wandb_records, monkeypatch, checkpointed
):
    every = "checkpoint.every=1e-9" if checkpointed else "checkpoint.every=null"
    killed = process("-c", KILLED.format(checkpointed=checkpointed), *GROUPED, every)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    before = runs_in(workplace)
    finished = {name: run for name, run in before.items() if run.info["status"] == "done"}
    assert sorted(run["model.depth"] for run in finished.values()) == [2, 2] and len(before) == 4
    files = [
        file for run in finished.values() for file in run.directory.rglob("*") if file.is_file()
    ]
    written = {file: file.stat().st_mtime_ns for file in files}

    again = fathom(*GROUPED)
    assert (
        again.code == 0
        and "2 of 4 runs to train, 1 compiled program; already finished: 2" in again.err
    )
    assert ("2 runs: goes on from step " in again.err) == checkpointed, again.err
    after = runs_in(workplace)
    assert {file: file.stat().st_mtime_ns for file in files} == written
    assert {run.info["status"] for run in after.values()} == {"done"}
    assert sum("resumed" in run.info for run in after.values()) == (2 if checkpointed else 0)
    for run in after.values():
        folders = list(workplace.glob(f"outputs/wandb/offline-run-*-{run.info['id']}"))
        assert [str(folder) for folder in folders] == [str(workplace / run.info["wandb"])]
        assert steps_of(wandb_records(folders[0])) == list(range(25))

    (workplace / "whole").mkdir()
    monkeypatch.chdir(workplace / "whole")
    assert fathom(*GROUPED, "tracker=none").code == 0
    whole = runs_in(workplace / "whole")
    assert sorted(whole) == sorted(after)
    for name, run in whole.items():
        assert (run.info["final"], run.info["verdict"]) == (
            after[name].info["final"],
            after[name].info["verdict"],
        )
        for table in ("metrics.parquet", "profiles.parquet"):
            assert pq.read_table(run.directory / table).equals(
                pq.read_table(after[name].directory / table)
            )


SMALL = [
    "train",
    "model.depth=2",
    "model.width=8",
    "train.steps=25",
    "train.eval_every=5",
    "name=study",
]


@pytest.fixture
def told_to_end(fathom, monkeypatch):
    """Trains the small run, which is sent a signal while it takes the rows from step ``at`` on.

    In the background of a shell SIGINT is ignored, by its children too.
    """
    take = RunGroup.take
    heeded = signal.signal(signal.SIGINT, signal.default_int_handler)

    def start(*words, at, signal=signal.SIGTERM):
        def signalled(group, start, *rest):
            if start >= at and not told:
                told.append(start)
                os.kill(os.getpid(), signal)
            take(group, start, *rest)

        told = []
        with monkeypatch.context() as patch:
            patch.setattr(RunGroup, "take", signalled)
            return fathom(*SMALL, *words)

    yield start
    signal.signal(signal.SIGINT, heeded)


@pytest.fixture(scope="module")
def whole(fathom, tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    with contextlib.chdir(place):
        assert fathom(*SMALL, "tracker=none").code == 0
        (run,) = runs_in(place).values()
    return run


def same(run, other):
    tables = [
        [pq.read_table(each.directory / f"{name}.parquet") for name in TABLES]
        for each in (run, other)
    ]
    return (
        all(a.equals(b) for a, b in zip(*tables, strict=True))
        and run.info["verdict"] == other.info["verdict"]
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_end_goes_on_from_where_it_ended(
    workplace, fathom, told_to_end, whole, number
):
    """Nothing of what was measured is lost, whatever the checkpoints' interval is."""
    said = told_to_end("tracker=none", at=6, signal=number)
    (run,) = runs_in(workplace).values()
    steps = run.info["steps"]
    assert (
        said.code == 1
        and said.err.count("interrupted") == 1
        and run.info["status"] == "interrupted"
    )
    assert [place.name for place in (run.directory / "checkpoints").iterdir()] == [str(steps)]
    assert run.metrics["step"].tolist() == list(range(steps)) and 6 < steps < 25
    assert fathom(*SMALL, "tracker=none").code == 0
    (run,) = runs_in(workplace).values()
    assert run.info["resumed"] == [steps] and same(run, whole)
    assert sorted(file.name for file in run.directory.iterdir()) == sorted(
        f.name for f in whole.directory.iterdir()
    )


def test_without_checkpoints_a_run_begins_anew(workplace, fathom, told_to_end, whole):
    told_to_end("tracker=none", "checkpoint.every=null", at=6)
    assert fathom(*SMALL, "tracker=none").code == 0
    (run,) = runs_in(workplace).values()
    assert "resumed" not in run.info and same(run, whole)


def test_a_run_that_is_told_to_end_at_its_last_step_is_done(workplace, told_to_end, whole):
    """But what comes behind it ends."""
    said = told_to_end("tracker=none", at=20)
    (run,) = runs_in(workplace).values()
    assert said.code == 1 and run.info["status"] in ("done", "interrupted")
    assert (run.info["status"] == "done") == (run.info["steps"] == 25)


@pytest.mark.slow
@pytest.mark.parametrize("uploaded", [False, True])
def test_each_row_reaches_wandb_once(workplace, fathom, told_to_end, wandb_records, uploaded):
    """Also where the first part was uploaded before the run went on."""
    told_to_end(at=6)
    (run,) = runs_in(workplace).values()
    (first,) = workplace.glob("outputs/wandb/offline-run-*")
    sent = steps_of(wandb_records(first))
    assert sent == list(range(run.info["steps"])) and len(sent) > 6
    if uploaded:
        (first / f"run-{run.info['id']}.wandb.synced").touch()
        first.rename(first.with_name(f"offline-run-20250101_000000-{run.info['id']}"))
    assert fathom(*SMALL).code == 0
    parts = [
        steps_of(wandb_records(folder))
        for folder in sorted(workplace.glob("outputs/wandb/offline-run-*"))
    ]
    assert parts == ([sent, list(range(len(sent), 25))] if uploaded else [list(range(25))])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "grouped"])
def test_a_second_process_compiles_nothing(workplace, process, launcher):
    said = []
    for name in ("first", "second"):
        words = [*GRID[:-1], f"name={name}", "tracker=none", f"hydra/launcher={launcher}"]
        counted = process("-c", COUNTED, *words, XDG_CACHE_HOME=str(workplace / "caches"))
        out, err = counted.communicate()
        assert counted.returncode == 0, err
        said.append(out.splitlines()[-1].split())
    (_, misses, _, _), (_, no_misses, _, hits) = said
    assert int(misses) > 0 and int(no_misses) == 0 and hits == misses


@pytest.mark.slow
def test_32_runs_are_one_program_and_one_group_of_32_wandb_runs(workplace, fathom, wandb_records):
    grid = ["seed=range(0,16)", "optimizer.learning_rate=0.1,0.01"]
    said = fathom(
        "train",
        "-m",
        *grid,
        "model.depth=2",
        "train.steps=12",
        "name=study",
        "hydra/launcher=grouped",
    )
    assert said.code == 0 and "32 of 32 runs to train, 1 compiled program\n" in said.err, said.err
    runs = runs_in(workplace)
    assert len(runs) == len({run.info["id"] for run in runs.values()}) == 32
    for run in runs.values():
        assert run.info["status"] == "done" and run.info["together"] == 32
        records = wandb_records(workplace / run.info["wandb"])
        (described,) = [record["run"] for record in records if record["type"] == "run"]
        assert (described["run_id"], described["run_group"]) == (run.info["id"], "study")
        settings = described["config"]["update"]
        assert settings["seed"] == run["seed"]
        assert settings["optimizer"]["learning_rate"] == run["optimizer.learning_rate"]
        assert steps_of(records) == list(range(12))
