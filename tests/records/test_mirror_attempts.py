"""W&B ends with the rows of the tables, also where a resumed run has replaced rows that it has."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import research
from research.records.runs import Run

pytestmark = pytest.mark.usefixtures("fresh_service")


@pytest.fixture
def directory(workplace):
    return workplace / "outputs" / "mine" / "a"


def record(directory, steps, scale, error=None):
    """Records a loop whose loss has a scale; ``error`` ends it."""
    monitor = research.Monitor(directory, tracker="wandb", resume=steps.start > 0)
    for step in steps:
        monitor.log(step, loss=scale / (step + 1))
    monitor.close(error)


def losses(rows):
    return [row["train/loss"] for row in rows if "train/loss" in row]


def wandb_id(directory):
    return Run(directory).info["mirrored"]["wandb"]["run"]["id"]


def test_rows_that_a_resumed_loop_replaces_are_another_run_in_wandb(fathom, directory, server):
    record(directory, range(18), 1.0, KeyboardInterrupt())
    assert fathom("sync").code == 0
    first = wandb_id(directory)
    record(directory, range(10, 30), 2.0)

    said = fathom("sync")

    second = f"{first}-attempt-2"
    assert said.code == 0
    assert said.out == (
        f"[1/1] outputs/mine/a: uploaded as {second}, because {first} in W&B has rows that were "
        "replaced since\n"
    )
    assert losses(server.rows[second]) == Run(directory).metrics["train_loss"].tolist()
    assert len(server.rows[first]) == 18
    assert wandb_id(directory) == second
    assert fathom("sync").out.startswith("nothing to upload, 1 already in W&B")
    assert fathom("sync", "outputs/wandb").code == 2  # no folder is left to send


def test_a_loop_that_repeats_its_rows_goes_on_as_the_same_run(fathom, directory, server):
    record(directory, range(18), 1.0, KeyboardInterrupt())
    fathom("sync")
    record(directory, range(10, 30), 1.0 + 1e-8)
    assert fathom("sync").out == "[1/1] outputs/mine/a: uploaded\n"
    (rows,) = server.rows.values()
    assert [row["train/step"] for row in rows] == list(range(30))


def test_each_attempt_that_replaces_rows_is_a_run_of_its_own(fathom, directory, server):
    record(directory, range(18), 1.0, KeyboardInterrupt())
    fathom("sync")
    first = wandb_id(directory)
    for scale, end in ((2.0, 25), (3.0, 30)):
        record(directory, range(10, end), scale, KeyboardInterrupt())
        assert fathom("sync").code == 0
    assert wandb_id(directory) == f"{first}-attempt-3"
    rows = server.rows[f"{first}-attempt-3"]
    assert losses(rows) == Run(directory).metrics["train_loss"].tolist()


@pytest.mark.parametrize(
    ("start", "suffix"),
    [(10, "-attempt-2"), (18, "")],
    ids=["replaces", "follows"],
)
def test_a_loop_that_goes_on_after_it_has_ended_in_wandb(fathom, directory, server, start, suffix):
    record(directory, range(18), 1.0)
    fathom("sync")
    first = wandb_id(directory)
    record(directory, range(start, 18), 2.0)  # nothing where it follows
    record(directory, range(18, 20), 2.0)
    assert fathom("sync").code == 0
    rows = server.rows[f"{first}{suffix}"]
    assert losses(rows) == Run(directory).metrics["train_loss"].tolist()
    assert fathom("sync").out.startswith("nothing to upload, 1 already in W&B")


def test_a_loop_whose_pictures_wandb_has_goes_on_as_another_run(directory, capsys):
    """No row can follow the pictures, which are the last row of a run that has ended."""
    record(directory, range(18), 1.0)
    first = wandb_id(directory)
    file = directory / "run.json"
    info = json.loads(file.read_text())
    info["mirrored"]["wandb"]["state"] = "uploaded"
    file.write_text(json.dumps(info))
    signals = [[1.0, 1.0]]
    columns = {"step": [0], "signal_grad": signals, "activation_rms": signals, "grad_norm": [[1.0]]}
    steps = pa.table(columns)
    pq.write_table(steps, directory / "profiles.parquet")

    record(directory, range(18, 20), 2.0)

    assert f"it is another run there, {first}-attempt-2" in capsys.readouterr().err
    assert wandb_id(directory) == f"{first}-attempt-2"


def test_a_resumed_run_with_fewer_rows_than_wandb_has_is_another_run(fathom, directory, server):
    record(directory, range(18), 1.0, KeyboardInterrupt())
    fathom("sync")
    first = wandb_id(directory)
    record(directory, range(10, 15), 1.0)
    assert fathom("sync").code == 0
    assert losses(server.rows[f"{first}-attempt-2"]) == [1 / (step + 1) for step in range(15)]


def test_a_loop_without_a_tracker_keeps_its_id_in_wandb(fathom, directory, server):
    record(directory, range(18), 1.0, KeyboardInterrupt())
    fathom("sync")
    record(directory, range(10, 30), 2.0, KeyboardInterrupt())
    fathom("sync")
    second = wandb_id(directory)
    with research.Monitor(directory, resume=True) as monitor:
        monitor.log(30, loss=1.0)
    assert wandb_id(directory) == second
    assert fathom("sync").code == 0
    assert len(server.rows[second]) == 31


def test_the_rows_of_a_run_that_was_not_resumed_are_not_sent_after_others(fathom, recorded, server):
    fathom("sync")
    del server.rows[recorded.id][10:]
    server.rows[recorded.id][9]["train/loss"] = 77.0
    server.ended.clear()
    recorded.change(state="local")
    said = fathom("sync")
    assert said.code == 1
    assert f"row 10 of fathom/{recorded.id} in W&B has train/loss 77, and that of" in said.out
    assert said.out.endswith(": delete that run in W&B, and sync again\n")
    assert len(server.rows[recorded.id]) == 10


def test_an_online_run_that_replaces_rows_is_another_run_in_wandb(
    directory, server, monkeypatch, capsys
):
    monkeypatch.setenv("WANDB_MODE", "online")
    record(directory, range(18), 1.0, KeyboardInterrupt())
    first = wandb_id(directory)
    assert len(server.rows[first]) == 18
    record(directory, range(10, 30), 2.0)
    second = f"{first}-attempt-2"
    assert f"a is recorded anew in W&B, as {second}" in capsys.readouterr().err
    assert losses(server.rows[second]) == Run(directory).metrics["train_loss"].tolist()
    assert losses(server.rows[first]) == [1 / (step + 1) for step in range(18)]
    assert Run(directory).info["mirrored"]["wandb"]["state"] == "uploaded"
