"""A run or a sweep that was killed or interrupted is completed by the same command."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from research.records.runs import Run
from research.runner.group import RunGroup

from .reading import find_wandb_rows, find_wandb_run, have_same_tables, modification_times

TRAIN_UNTIL = Path(__file__).parent / "train_until.py"
COUNT_COMPILATIONS = Path(__file__).parent / "count_compilations.py"
GRID = [
    "train",
    "-m",
    "model.depth=2",
    "model.width=8,9",
    "seed=0,1",
    "train.steps=25",
]
GROUPED = [*GRID, "name=study", "hydra/launcher=grouped"]
LAST_RUN = "width=9,seed=1"
SMALL = [
    "train",
    "model.depth=2",
    "model.width=8",
    "train.steps=25",
    "train.eval_every=5",
    "name=study",
]


def find_runs(place):
    """The runs of the study, by the names of their directories."""
    files = place.glob("outputs/study/*/run.json")
    return {file.parent.name: Run(file.parent) for file in files}


def only_run(place):
    (run,) = find_runs(place).values()
    return run


def logged_steps(records):
    """The training steps in the records of a W&B run, in order."""
    return [row["train/step"] for row in find_wandb_rows(records)]


def assert_same(run, other):
    """Both runs recorded the same numbers, bit for bit."""
    assert run.info["final"] == other.info["final"]
    assert run.info["verdict"] == other.info["verdict"]
    assert have_same_tables(run, other)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [True, False])
def test_a_killed_sweep_is_completed_by_the_same_command(
    workplace, process, fathom, wandb_records, monkeypatch, checkpointed
):
    options = ["--run", LAST_RUN]
    every = "null"
    if checkpointed:
        options.append("--after-checkpoint")
        every = "1e-9"
    killed = process(TRAIN_UNTIL, *options, "SIGKILL", 10, *GROUPED, f"checkpoint.every={every}")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    before = find_runs(workplace)
    finished = [run for run in before.values() if run.info["status"] == "done"]
    assert len(before) == 4
    assert [run["model.width"] for run in finished] == [8, 8]
    written = [modification_times(run.directory) for run in finished]

    again = fathom(*GROUPED)

    assert again.code == 0
    assert "2 of 4 runs to train, 1 compiled program; already finished: 2" in again.err
    assert ("2 runs: resumes at step " in again.err) == checkpointed, again.err
    assert [modification_times(run.directory) for run in finished] == written
    after = find_runs(workplace)
    resumed = [run for run in after.values() if "resumed" in run.info]
    assert len(resumed) == (2 if checkpointed else 0)
    for run in after.values():
        assert run.info["status"] == "done"
        (folder,) = workplace.glob(f"outputs/wandb/offline-run-*-{run.info['id']}")
        assert str(folder) == str(workplace / run.info["wandb"])
        assert logged_steps(wandb_records(folder)) == list(range(25))

    (workplace / "uninterrupted").mkdir()
    monkeypatch.chdir(workplace / "uninterrupted")
    assert fathom(*GROUPED, "tracker=none").code == 0
    uninterrupted = find_runs(workplace / "uninterrupted")
    assert sorted(uninterrupted) == sorted(after)
    for name, run in uninterrupted.items():
        assert_same(run, after[name])


@pytest.fixture
def train_until_signal(fathom, monkeypatch):
    """Trains the small run, which receives a signal while it writes the rows from a step on.

    In the background of a shell SIGINT is ignored, also by child processes: it is handled here.
    """
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    write_chunk = RunGroup.write_chunk

    def train(*words, step, number=signal.SIGTERM):
        signalled = []

        def write_chunk_after_signal(group, chunk):
            if chunk.start >= step and not signalled:
                signalled.append(chunk.start)
                os.kill(os.getpid(), number)
            write_chunk(group, chunk)

        with monkeypatch.context() as patch:
            patch.setattr(RunGroup, "write_chunk", write_chunk_after_signal)
            return fathom(*SMALL, *words)

    yield train
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="module")
def uninterrupted(fathom, tmp_path_factory):
    """The small run, trained without interruption."""
    place = tmp_path_factory.mktemp("uninterrupted")
    with contextlib.chdir(place):
        assert fathom(*SMALL, "tracker=none").code == 0
        return only_run(place)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_resumes_where_it_ended(
    workplace, fathom, train_until_signal, uninterrupted, number
):
    """Nothing that was measured is lost, whatever the interval of checkpoints is."""
    result = train_until_signal("tracker=none", step=6, number=number)

    run = only_run(workplace)
    steps = run.info["steps"]
    assert result.code == 1
    assert result.err.count("interrupted") == 1
    assert run.info["status"] == "interrupted"
    assert 6 < steps < 25
    (checkpoint,) = (run.directory / "checkpoints").iterdir()
    assert checkpoint.name == str(steps)
    assert run.metrics["step"].tolist() == list(range(steps))
    info = json.loads((run.directory / "run.json").read_text())
    info["versions"]["jax"] = "0.9.9"
    (run.directory / "run.json").write_text(json.dumps(info))

    said = fathom(*SMALL, "tracker=none")

    assert said.code == 0
    assert said.err.count("began under JAX 0.9.9 and goes on under") == 1
    run = only_run(workplace)
    assert run.info["resumed"] == [steps]
    assert_same(run, uninterrupted)
    assert set(os.listdir(run.directory)) == set(os.listdir(uninterrupted.directory))


@pytest.mark.parametrize("is_damaged", [False, True])
def test_without_checkpoints_a_run_starts_over(
    workplace, fathom, train_until_signal, uninterrupted, is_damaged
):
    train_until_signal("tracker=none", "checkpoint.every=null", step=6)
    num_steps = only_run(workplace).num_steps
    line = f"starts from step 0, because it has no checkpoint of the {num_steps} recorded steps"
    if is_damaged:
        (only_run(workplace).directory / "run.json").unlink()
        line = "replaces them, because its run.json is missing"

    said = fathom(*SMALL, "tracker=none")

    assert said.code == 0
    assert said.err.count(line) == 1
    assert said.err.count("fathom: ") == 1

    run = only_run(workplace)
    assert "resumed" not in run.info
    assert_same(run, uninterrupted)


def test_a_run_that_is_interrupted_at_its_last_step_is_done(workplace, train_until_signal):
    """What would come after it ends."""
    result = train_until_signal("tracker=none", step=20)

    run = only_run(workplace)
    assert result.code == 1
    assert run.info["status"] in ("done", "interrupted")
    assert (run.info["status"] == "done") == (run.info["steps"] == 25)


@pytest.mark.slow
@pytest.mark.parametrize("uploaded", [False, True])
def test_each_row_reaches_wandb_once(
    workplace, fathom, train_until_signal, wandb_records, uploaded
):
    """Also where the first part was uploaded before the run resumed."""
    train_until_signal(step=6)
    run = only_run(workplace)
    (first,) = workplace.glob("outputs/wandb/offline-run-*")
    sent = logged_steps(wandb_records(first))
    assert sent == list(range(run.info["steps"]))
    assert len(sent) > 6
    if uploaded:
        (first / f"run-{run.info['id']}.wandb.synced").touch()
        first.rename(first.with_name(f"offline-run-20250101_000000-{run.info['id']}"))

    assert fathom(*SMALL).code == 0

    folders = sorted(workplace.glob("outputs/wandb/offline-run-*"))
    parts = [logged_steps(wandb_records(folder)) for folder in folders]
    if uploaded:
        assert parts == [sent, list(range(len(sent), 25))]
    else:
        assert parts == [list(range(25))]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "grouped"])
def test_a_second_process_compiles_nothing(workplace, process, launcher):
    def count_compilations(name):
        options = [f"name={name}", "tracker=none", f"hydra/launcher={launcher}"]
        caches = str(workplace / "caches")
        counted = process(COUNT_COMPILATIONS, *GRID, *options, XDG_CACHE_HOME=caches)
        out, err = counted.communicate()
        assert counted.returncode == 0, err
        _, misses, _, hits = out.splitlines()[-1].split()
        return int(misses), int(hits)

    first_misses, _ = count_compilations("first")
    second_misses, second_hits = count_compilations("second")

    assert first_misses > 0
    assert second_misses == 0
    assert second_hits == first_misses


@pytest.mark.slow
def test_32_runs_are_one_program_and_one_group_of_32_wandb_runs(workplace, fathom, wandb_records):
    result = fathom(
        "train",
        "-m",
        "seed=range(0,16)",
        "optimizer.learning_rate=0.1,0.01",
        "model.depth=2",
        "train.steps=12",
        "name=study",
        "hydra/launcher=grouped",
    )

    assert result.code == 0
    assert "32 of 32 runs to train, 1 compiled program\n" in result.err, result.err
    runs = find_runs(workplace).values()
    assert len(runs) == len({run.info["id"] for run in runs}) == 32
    for run in runs:
        assert run.info["status"] == "done"
        assert run.info["group_size"] == 32
        records = wandb_records(workplace / run.info["wandb"])
        wandb_run = find_wandb_run(records)
        settings = wandb_run["config"]["update"]
        assert wandb_run["run_id"] == run.info["id"]
        assert wandb_run["run_group"] == "study"
        assert settings["seed"] == run["seed"]
        assert settings["optimizer"]["learning_rate"] == run["optimizer.learning_rate"]
        assert logged_steps(records) == list(range(12))
