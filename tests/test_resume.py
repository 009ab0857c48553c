"""A sweep whose process dies, and what the same command makes of it."""

import signal

import pyarrow.parquet as pq
import pytest

from research.records.analysis import Run

KILLED = """
import os, signal, sys
from research import cli
from research.group import Group

take = Group.take

def dies(self, start, steps, rows, evaluation):
    take(self, start, steps, rows, evaluation)
    if self.job.spec.architecture.depth == 3 and start >= 10:
        os.kill(os.getpid(), signal.SIGKILL)

Group.take = dies
sys.exit(cli.run(sys.argv[1:]))
"""
COUNTED = """
import sys
import jax
from research import cli

seen = []
jax.monitoring.register_event_listener(lambda event, **_: seen.append(event))
code = cli.run(sys.argv[1:])
cache = "/jax/compilation_cache/cache_"
print("misses", seen.count(cache + "misses"), "hits", seen.count(cache + "hits"))
sys.exit(code)
"""
GRID = ["train", "-m", "model.depth=2,3", "seed=0,1", "model.width=8", "train.steps=25", "name=study"]
GROUPED = [*GRID, "hydra/launcher=grouped"]


def runs_in(place):
    return {file.parent.name: Run(file.parent) for file in place.glob("outputs/study/*/run.json")}


def steps_of(records):
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    return [row["train/step"] for row in rows if "train/loss" in row]


@pytest.mark.slow
def test_a_killed_sweep_is_completed_by_the_same_command(workplace, process, fathom, wandb_records, monkeypatch):
    killed = process("-c", KILLED, *GROUPED)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    before = runs_in(workplace)
    finished = {name: run for name, run in before.items() if run.info["status"] == "done"}
    assert sorted(run["model.depth"] for run in finished.values()) == [2, 2] and len(before) == 4
    files = [file for run in finished.values() for file in run.directory.rglob("*") if file.is_file()]
    written = {file: file.stat().st_mtime_ns for file in files}

    again = fathom(*GROUPED)
    assert again.code == 0 and "2 of 4 runs to train, 1 compiled program; there already: 2" in again.err
    after = runs_in(workplace)
    assert {file: file.stat().st_mtime_ns for file in files} == written
    assert {run.info["status"] for run in after.values()} == {"done"}
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
        for table in ("metrics.parquet", "profiles.parquet"):
            assert pq.read_table(run.directory / table).equals(pq.read_table(after[name].directory / table))


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
    said = fathom("train", "-m", *grid, "model.depth=2", "train.steps=12", "name=study", "hydra/launcher=grouped")
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
