"""A run that has ended stays as it was trained, and what it has lost or never had is said."""

import json

import pyarrow.parquet as pq
import pytest
import yaml

from research.records.runs import Run
from research.runner.completion import CHECKPOINTS, find_leftovers, remove_leftovers

SMALL = ["model.depth=2", "model.width=8", "train.steps=13", "tracker=none", "name=study"]
KEEP = "checkpoint.keep=true"


@pytest.fixture
def train(fathom, workplace, quickly_compiled):
    """Trains runs of a study; gives the lines of Fathom on standard error."""

    def train(*words):
        said = fathom("train", *SMALL, *words)
        assert said.code == 0, said.err
        return [line for line in said.err.splitlines() if line.startswith("fathom: ")]

    return train


@pytest.fixture
def runs(workplace):
    """Gives the runs of the study."""

    def runs():
        return [Run(file.parent) for file in sorted(workplace.glob("outputs/study/*/run.json"))]

    return runs


def files_in(directory):
    paths = directory.rglob("*")
    return {path: path.read_bytes() for path in sorted(paths) if path.is_file()}


def cut_off(file):
    file.write_bytes(file.read_bytes()[:-500])


def remove(file):
    file.unlink()


def drop_last_row(file):
    table = pq.read_table(file)
    pq.write_table(table.slice(0, table.num_rows - 1), file)


@pytest.mark.parametrize("words", [(), ("-m", "seed=0,1")])
def test_a_kept_checkpoint_stays_whatever_a_later_command_says(train, runs, words):
    train(KEEP, *words)
    before = {run.directory: files_in(run.directory) for run in runs()}

    lines = train(*[word.replace("0,1", "0,1,2") for word in words])

    assert lines == []
    for directory, files in before.items():
        assert (directory / CHECKPOINTS / "13").is_dir()
        assert files_in(directory) == files
        remove_leftovers(directory)  # as `fathom sync` does
        assert files_in(directory) == files


@pytest.mark.parametrize("keep", [True, False])
def test_after_a_kill_the_settings_that_a_run_was_trained_with_decide(train, runs, keep):
    train(f"checkpoint.keep={str(keep).lower()}")
    (run,) = runs()
    (run.directory / CHECKPOINTS / "7").mkdir(parents=True, exist_ok=True)
    (run.directory / "metrics.parts").mkdir(exist_ok=True)

    train(f"checkpoint.keep={str(not keep).lower()}")

    assert (run.directory / CHECKPOINTS / "7").exists() == keep
    assert (run.directory / "metrics.parts").exists() == keep
    assert find_leftovers(run.directory) == []
    config = yaml.safe_load((run.directory / ".hydra/config.yaml").read_text())
    assert config["checkpoint"]["keep"] == keep


def test_a_checkpoint_that_a_finished_run_cannot_keep_any_more_is_said(train, runs, fathom):
    train()
    (run,) = runs()
    (line,) = train(KEEP)
    assert f"{run.directory} has finished without a checkpoint" in line
    assert f"`fathom rm {run.directory}` and the same command train it again with one" in line

    said = fathom("landscape", "study")
    assert said.code == 2
    place = f"outputs/study/{run.directory.name}"
    assert f"`fathom rm {place}`, and train it again with checkpoint.keep=true" in said.err

    assert fathom("rm", str(run.directory), "--yes").code == 0
    assert train(KEEP) == []
    assert (run.directory / CHECKPOINTS / "13").is_dir()


def test_of_a_sweep_one_line_says_how_many_runs_kept_no_checkpoint(train):
    sweep = ["-m", "seed=0,1"]
    train(*sweep)
    (line,) = train(*sweep, KEEP)
    assert line.startswith("fathom: 2 runs have finished without a checkpoint")


def test_a_run_that_ended_early_is_not_told_to_keep_a_checkpoint(train, runs, fathom):
    train()
    (run,) = runs()
    info = run.info | {"status": "diverged"}
    (run.directory / "run.json").write_text(json.dumps(info))
    said = fathom("train", *SMALL, KEEP)
    assert "checkpoint" not in said.err
    said = fathom("landscape", "study")
    assert "kept no checkpoint, because it ended before its last step" in said.err


@pytest.mark.parametrize(
    ("table", "damage", "fault"),
    [
        ("metrics", cut_off, "are damaged"),
        ("metrics", remove, "are missing"),
        ("metrics", drop_last_row, "hold 12 rows instead of 13"),
        ("profiles", cut_off, "are damaged"),
        ("profiles", remove, "are missing"),
    ],
)
def test_the_command_of_a_finished_run_names_a_table_that_is_lost(
    train, runs, table, damage, fault
):
    train()
    (run,) = runs()
    damage(run.directory / f"{table}.parquet")
    (line,) = train()
    what = f"the {table} of {run.directory} {fault}"
    assert line == f"fathom: {what}: remove that directory and train the run again"


def test_a_sweep_names_its_finished_runs_with_lost_tables_in_one_line(train, runs):
    sweep = ["-m", "seed=0,1,2"]
    train(*sweep)
    first, whole, last = runs()
    cut_off(first.directory / "metrics.parquet")
    remove(last.directory / "metrics.parquet")
    (line,) = train(*sweep)
    assert first.directory.name in line
    assert whole.directory.name not in line
    assert last.directory.name in line
    assert line.endswith("remove those directories and train the runs again")
