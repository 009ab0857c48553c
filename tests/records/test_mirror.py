"""A recorded run comes to W&B completely and once, whatever failed before."""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import wandb

from research.records.mirror import choose_wandb_id, wandb_state
from research.records.record import write_json
from research.records.rows import RecordedRows, read_rows
from research.records.runs import Run
from research.records.trackers.identity import WandbId
from research.records.trackers.server import ServerUnavailable, Uploaded, ask_for_run
from research.records.trackers.service import service_pids, stop_service
from research.records.trackers.wandb import WandbTracker
from research.runner.completion import CHECKPOINTS
from research.training.checkpoint import FOLDER

from ..compiling import one_in
from .server import FAULTS, STATUS_OF_FAULT

pytestmark = pytest.mark.usefixtures("fresh_service")


def without_times(row):
    return {key: value for key, value in row.items() if key not in ("_runtime", "_timestamp")}


def test_what_comes_from_the_tables_is_what_was_recorded_while_training(
    fathom, recorded, server, offline_run, wandb_records, has_all_rows
):
    records = wandb_records(offline_run)
    offline_rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    (offline,) = (record["run"] for record in records if record["type"] == "run")

    code, out, err = fathom("sync")

    assert (code, err) == (0, "")
    assert out == f"[1/1] outputs/first/{recorded.directory.name}: uploaded\n"
    assert has_all_rows(server, recorded.id)
    sent = [without_times(row) for row in server.rows[recorded.id]]
    offline_rows = [without_times(row) for row in offline_rows]
    assert sent[:25] == offline_rows[:25]
    for key in ("profile/heat_map", "profile/table"):
        assert sent[25][key]["path"] == offline_rows[25][f"{key}.path"]
    variables = server.runs[recorded.id]
    assert variables["tags"] == offline["tags"]
    assert variables["groupName"] == offline["run_group"]
    assert variables["displayName"] == offline["display_name"]
    config = {key: item["value"] for key, item in json.loads(variables["config"]).items()}
    config.pop("_wandb")
    offline_config = dict(offline["config"]["update"])
    offline_config.pop("_wandb")
    assert config == offline_config


def test_a_run_that_is_uploaded_is_not_sent_again(fathom, recorded, server, offline_run):
    fathom("sync")
    assert recorded.state == "uploaded"
    assert list(offline_run.glob("*.synced"))
    server.runs.clear()
    code, out, _ = fathom("sync")
    assert code == 0
    assert out.startswith("nothing to upload")
    assert server.runs == {}


def test_tags_and_notes_that_are_given_anew_reach_wandb(
    fathom, small, recorded, server, has_all_rows
):
    fathom("sync")
    assert recorded.state == "uploaded"
    rows = list(server.rows[recorded.id])

    said = fathom("train", *small, "name=first", "tags=[new]", "notes=second")
    assert said.err.count("`fathom sync` sends them to W&B") == 1
    code, out, _ = fathom("sync")

    assert (code, out.count("uploaded")) == (0, 1)
    tags = ["new", *server.runs[recorded.id]["tags"]]
    assert server.remarks == {recorded.id: {"tags": tags, "notes": "second"}}
    assert server.rows[recorded.id] == rows
    assert has_all_rows(server, recorded.id)
    assert fathom("sync").out.startswith("nothing to upload")

    fathom("train", *small, "name=first", "tags=[]")
    fathom("sync")
    assert server.remarks == {recorded.id: {"tags": tags[1:]}}


def test_tags_that_are_given_anew_before_the_upload_are_sent_with_it(
    fathom, small, recorded, server, has_all_rows
):
    fathom("train", *small, "name=first", "tags=[new]")
    assert fathom("sync").code == 0
    assert server.runs[recorded.id]["tags"][0] == "new"
    assert server.remarks[recorded.id]["tags"][0] == "new"
    assert has_all_rows(server, recorded.id)


def test_a_server_that_fails_gets_new_tags_later(fathom, small, recorded, server):
    fathom("sync")
    fathom("train", *small, "name=first", "tags=[new]")
    server.break_down("500")
    assert fathom("sync").code == 1
    server.break_down(None)
    assert fathom("sync").code == 0
    assert server.remarks[recorded.id]["tags"][0] == "new"


@pytest.mark.parametrize("num_rows", [0, 10, 24, 25, 26])
def test_what_an_interrupted_upload_left_is_completed(
    fathom, recorded, server, has_all_rows, num_rows
):
    """After 26 rows the files of the pictures may be missing."""
    fathom("sync")
    del server.rows[recorded.id][num_rows:]
    server.ended.clear()
    server.files.clear()
    recorded.change(state="local")

    code, out, _ = fathom("sync")

    assert code == 0, out
    assert has_all_rows(server, recorded.id)
    assert recorded.state == "uploaded"


def test_a_run_that_the_server_has_already_is_not_sent(fathom, recorded, server):
    fathom("sync")
    recorded.change(state="pending")
    server.runs.clear()
    assert fathom("sync").out.endswith(": uploaded\n")
    assert server.runs == {}
    assert recorded.state == "uploaded"


@pytest.mark.parametrize("state", one_in(2, [("pending",), ("local",)]))
def test_more_rows_than_the_run_has_are_one_line_and_not_an_upload(fathom, recorded, server, state):
    fathom("sync")
    server.rows[recorded.id] += [{"train/loss": 0.0}] * 4
    recorded.change(state=state)
    server.runs.clear()

    code, out, err = fathom("sync")

    assert (code, err) == (1, "")
    assert out == (
        f"[1/1] outputs/first/{recorded.directory.name}: not uploaded, W&B has 30 rows of "
        f"fathom/{recorded.id} and the run has 26, so some are there twice or belong to another "
        "run: delete that run in W&B, and sync again\n"
    )
    assert recorded.state == state
    assert server.runs == {}


def test_rows_of_other_steps_are_one_line_and_nothing_is_sent_after_them(fathom, recorded, server):
    """As after a loop that went back and then recorded other steps than before."""
    fathom("sync")
    del server.rows[recorded.id][10:]
    server.rows[recorded.id][9] = {"train/step": 19}
    server.ended.clear()
    recorded.change(state="local")

    code, out, err = fathom("sync")

    assert (code, err) == (1, "")
    assert out == (
        f"[1/1] outputs/first/{recorded.directory.name}: not uploaded, row 10 of "
        f"fathom/{recorded.id} in W&B is step 19, and that of the run is step 9: "
        "delete that run in W&B, and sync again\n"
    )
    assert len(server.rows[recorded.id]) == 10
    assert recorded.state == "local"


def test_a_run_whose_data_have_changed_is_another_one_in_wandb(
    fathom, small, recorded, offline_run, workplace
):
    """The server may have rows of the attempt on the old data."""
    info = recorded.info
    fingerprint = info["data"]["fingerprint"]
    recorded.change(status="interrupted", data=info["data"] | {"fingerprint": "other"})

    for status in ("interrupted", "done"):  # from then on the data stay as they are
        assert fathom("train", *small, "name=first").code == 0
        wandb_id = recorded.info["mirrored"]["wandb"]["run"]["id"]
        assert wandb_id == f"{recorded.id}-{fingerprint[:8]}"
        folders = list(workplace.glob("outputs/wandb/offline-run-*"))
        assert [folder.name.split("-", 3)[3] for folder in folders] == [wandb_id]
        recorded.change(status=status)
    assert recorded.info["id"] == recorded.id

    assert fathom("rm", "--yes", str(recorded.directory)).code == 0
    assert not list(workplace.glob("outputs/wandb/offline-run-*"))


def remove_metrics(directory):
    (directory / "metrics.parquet").unlink()


def remove_last_metrics(directory):
    file = directory / "metrics.parquet"
    pq.write_table(pq.read_table(file).slice(0, 20), file)


def cut_off_metrics(directory):
    file = directory / "metrics.parquet"
    file.write_bytes(file.read_bytes()[:1000])


def remove_profiles(directory):
    (directory / "profiles.parquet").unlink()


@pytest.mark.parametrize(
    ("damage", "table", "fault"),
    [
        (remove_last_metrics, "metrics", "hold 20 rows instead of 25"),
        (cut_off_metrics, "metrics", "are damaged"),
        pytest.param(remove_metrics, "metrics", "are missing", marks=pytest.mark.slow),
        pytest.param(remove_profiles, "profiles", "are missing", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_has_lost_rows_is_not_uploaded_as_if_it_were_whole(
    fathom, recorded, server, damage, table, fault
):
    damage(recorded.directory)
    said = fathom("sync")
    assert said.code == 1
    place = f"outputs/first/{recorded.directory.name}"
    advice = "remove that directory and train the run again"
    assert said.out == f"[1/1] {place}: not uploaded, the {table} of {place} {fault}: {advice}\n"
    assert server.rows == {}
    assert recorded.state == "local"


@pytest.mark.parametrize("damage", [remove_last_metrics, cut_off_metrics])
def test_the_command_of_a_run_that_has_lost_rows_says_what_to_do(fathom, small, recorded, damage):
    """``fathom sync`` could not read them either."""
    recorded.change(state="pending")
    damage(recorded.directory)
    said = fathom("train", *small, "name=first")
    (line,) = [line for line in said.err.splitlines() if line.startswith("fathom: ")]
    assert line.startswith(f"fathom: W&B may lack rows of {recorded.directory.name} (the metrics")
    assert line.endswith(": remove that directory and train the run again)")


def test_the_command_of_a_run_that_has_lost_rows_names_the_dashboard(fathom, small, recorded):
    cut_off_metrics(recorded.directory)
    said = fathom("train", *small, "name=first", "tracker=tensorboard")
    (line,) = [line for line in said.err.splitlines() if line.startswith("fathom: ")]
    assert line.startswith(f"fathom: TensorBoard lacks rows of {recorded.directory.name} (the met")
    assert line.endswith(": remove that directory and train the run again)")


def test_a_run_under_other_settings_of_jax_is_another_one_in_wandb(tmp_path):
    """The server may have rows of an attempt that was killed before its first checkpoint."""
    here = tmp_path / "study" / "run"
    here.mkdir(parents=True)
    info = {"id": "abc", "data": {"fingerprint": "0123"}, "jax_settings": {"XLA_FLAGS": ""}}
    folder = "wandb/offline-run-20261127_000000-abc"
    write_json(here / "run.json", info | {"wandb": folder})
    assert choose_wandb_id(here, info) == WandbId("abc")

    changed = info | {"jax_settings": {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}}
    chosen = choose_wandb_id(here, changed)
    assert chosen.value.startswith("abc-")
    assert chosen.replaced == "abc"
    write_json(here / "run.json", changed | {"wandb": f"{folder[:-3]}{chosen.value}"})
    assert choose_wandb_id(here, changed) == WandbId(chosen.value)


def test_the_id_in_wandb_says_on_which_files_of_the_user_a_run_is_trained(tmp_path):
    info = {"id": "run", "data": {"fingerprint": "0123456789abcdef"}}
    assert choose_wandb_id(tmp_path, info) == WandbId("run")
    assert choose_wandb_id(tmp_path, info, has_own_data=True) == WandbId("run-01234567")


@pytest.mark.slow
def test_runs_on_other_files_of_the_same_name_are_two_runs_in_wandb(
    fathom, small, server, workplace, monkeypatch
):
    for seed in (0, 1):
        folder = workplace / str(seed)
        folder.mkdir()
        monkeypatch.chdir(folder)
        x = np.random.default_rng(seed).normal(size=(200, 3))
        np.savez("data.npz", x=x, y=(x[:, 0] > 0).astype(int))
        assert fathom("train", *small, "data=arrays", "data.path=data.npz", "name=x").code == 0
        assert fathom("sync").out.endswith(": uploaded\n")

    losses = [rows[0]["train/loss"] for rows in server.rows.values()]
    assert len(set(losses)) == 2


@pytest.mark.parametrize(
    "damaged",
    [
        {"run": {}},
        {"run": {"id": 5}},
        {"run": None},
        {},
    ],
)
def test_a_damaged_entry_about_wandb_is_what_it_is_for_any_run(tmp_path, damaged):
    identity = {"id": "abc", "name": "r", "group": "study", "job_type": "train"}
    mirrored = {"wandb": {"state": "pending"} | damaged}
    state = wandb_state(tmp_path / "study" / "r", {"id": "abc", "mirrored": mirrored})
    assert state == {"state": "pending", "run": identity}


FAST_FAULTS = [
    ("401", "start"),
    ("html", "middle"),
    ("reset", "start"),
    ("500", "end"),
]


@pytest.mark.parametrize(("kind", "moment"), one_in(2, FAST_FAULTS))
def test_after_a_fault_the_next_upload_completes_the_run(
    fathom, recorded, server, has_all_rows, kind, moment
):
    set_finish_timeout(recorded, 1.0)
    server.break_down(kind, moment)
    code, out, err = fathom("sync")
    assert code == 1
    assert out.count("\n") == 1
    assert "not uploaded" in out
    assert err == ""

    server.break_down(None)
    assert fathom("sync").code == 0
    assert has_all_rows(server, recorded.id)


def set_finish_timeout(recorded, seconds):
    file = recorded.directory / ".hydra" / "config.yaml"
    lines = []
    for line in file.read_text().splitlines():
        if "finish_timeout" in line:
            line = f"  finish_timeout: {seconds}"
        lines.append(line)
    file.write_text("\n".join(lines))


def test_an_interrupted_run_is_uploaded_and_later_the_rest(fathom, recorded, server, has_all_rows):
    status = recorded.info["status"]
    keep_steps(recorded, 10)
    recorded.change(status="interrupted")
    assert fathom("sync").code == 0
    assert [row["train/step"] for row in server.rows[recorded.id]] == list(range(10))

    (recorded.directory / "short.parquet").unlink()
    (recorded.directory / "all.parquet").rename(recorded.directory / "metrics.parquet")
    recorded.change(status=status, state="pending")
    assert fathom("sync").code == 0
    assert has_all_rows(server, recorded.id)


def keep_steps(recorded, num_steps):
    """Leaves only the first rows in the table of metrics; ``all.parquet`` has all of them."""
    import pyarrow.parquet as pq

    file = recorded.directory / "metrics.parquet"
    table = pq.read_table(file)
    file.rename(file.with_name("all.parquet"))
    pq.write_table(table.slice(0, num_steps), file)
    pq.write_table(table.slice(0, num_steps), file.with_name("short.parquet"))


def test_the_same_command_completes_what_a_killed_process_left(
    fathom, small, recorded, workplace, wandb_records
):
    """The process was killed after the training was done and before W&B was."""
    recorded.change(state="pending")
    leftovers = [recorded.directory / "metrics.parts", recorded.directory / CHECKPOINTS / "25"]
    for folder in leftovers:
        folder.mkdir(parents=True)
    leftovers.append(recorded.directory / "metrics.tmp")
    leftovers[-1].touch()
    written_at = (recorded.directory / "metrics.parquet").stat().st_mtime_ns

    code, out, err = fathom("train", *small, "name=first")

    assert code == 0
    assert "already finished" in out + err
    assert err.count("complete in W&B now") == 1
    assert recorded.state == "local"
    assert not any(path.exists() for path in leftovers)
    assert (recorded.directory / "metrics.parquet").stat().st_mtime_ns == written_at
    (folder,) = workplace.glob(f"outputs/wandb/offline-run-*-{recorded.id}")
    records = wandb_records(folder)
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert [row.get("train/step") for row in rows] == [*range(25), None]
    assert [record["exit"]["exit_code"] for record in records if record["type"] == "exit"] == [0]


def test_the_same_command_records_a_run_that_was_trained_without_wandb(
    fathom, small, recorded, workplace, wandb_records
):
    info = json.loads((recorded.directory / "run.json").read_text())
    del info["mirrored"], info["wandb"]
    (recorded.directory / "run.json").write_text(json.dumps(info))

    said = fathom("train", *small, "name=first")

    assert said.err.count("complete in W&B now") == 1
    assert recorded.state == "local"
    (folder,) = workplace.glob(f"outputs/wandb/offline-run-*-{recorded.id}")
    records = wandb_records(folder)
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert [row.get("train/step") for row in rows] == [*range(25), None]


def test_a_sweep_completes_its_finished_runs_too(fathom, small, recorded, workplace):
    recorded.change(state="pending")
    code, _, err = fathom("train", "-m", *small, "name=first")
    assert code == 0
    assert err.count("complete in W&B now") == 1
    assert recorded.state == "local"


def test_a_sweep_ends_well_where_a_finished_run_has_lost_its_configuration(fathom, small, recorded):
    (recorded.directory / ".hydra" / "config.yaml").unlink()
    code, _, err = fathom("train", "-m", *small, "tracker=none", "name=first")
    assert code == 0
    assert err.count("fathom: left out: ") == 1
    assert "config.yaml cannot be read" in err


def test_a_run_without_a_tracker_gets_none(fathom, small, recorded, workplace):
    recorded.change(state="pending")
    fathom("train", *small, "name=first", "tracker=none")
    assert recorded.state == "pending"
    assert not (workplace / "outputs" / "wandb").exists()


def test_a_run_that_goes_on_without_a_tracker_is_completed_by_an_upload(
    fathom, small, recorded, server, has_all_rows
):
    recorded.change(status="interrupted")
    assert fathom("train", *small, "name=first", "tracker=none").code == 0
    assert recorded.info["status"] == "done"
    assert recorded.state == "pending"

    assert fathom("sync").code == 0

    assert has_all_rows(server, recorded.id)


def test_checkpoints_are_in_the_folder_that_is_tidied_up():
    assert CHECKPOINTS == FOLDER


def test_runs_that_were_recorded_without_wandb_are_counted_and_said_how_to_bring(
    fathom, small, recorded, server, has_all_rows
):
    fathom("sync")
    info = recorded.info
    del info["mirrored"]
    info.pop("wandb", None)
    write_json(recorded.directory / "run.json", info)
    advice = (
        "1 run was recorded without W&B: the same command with tracker=wandb, then `fathom sync`, "
        "brings it there\n"
    )
    server.runs.clear()
    server.rows.clear()

    for words in ([], ["first"], [str(recorded.directory)]):
        said = fathom("sync", *words)
        assert (said.code, said.out) == (0, f"nothing to upload, 0 already in W&B\n{advice}")
    assert fathom("sync", "--dry-run").out == f"0 to upload, 0 already in W&B\n{advice}"
    assert server.runs == {}

    assert fathom("train", *small, "name=first", "tracker=wandb").code == 0
    assert fathom("sync").out.endswith(": uploaded\n")
    assert has_all_rows(server, recorded.id)


@pytest.mark.parametrize("state", ["pending", None])
def test_runs_without_rows_are_counted(fathom, recorded, server, state):
    info = recorded.info
    if state is None:
        del info["mirrored"]
        info.pop("wandb", None)
    write_json(recorded.directory / "run.json", info | {"status": "running", "steps": None})
    (recorded.directory / "metrics.parquet").unlink()

    assert fathom("sync").out == "nothing to upload, 0 already in W&B\n1 run has no rows yet\n"


def test_the_words_of_sync_select_runs(fathom, recorded, server):
    code, out, _ = fathom("sync", "model.depth=2", "first")
    assert code == 0
    assert out.endswith(": uploaded\n")
    recorded.change(state="local")
    assert fathom("sync", str(recorded.directory)).out.endswith(": uploaded\n")
    assert fathom("sync", "outputs/first").out.startswith("nothing to upload")


def test_a_word_of_sync_that_fits_nothing_is_refused(fathom, recorded, server):
    code, out, err = fathom("sync", "foo")
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert "foo" in err
    assert server.runs == {}


def test_a_run_whose_record_is_damaged_is_named_and_the_others_are_uploaded(
    fathom, recorded, server, workplace
):
    damaged = workplace / "outputs" / "damaged" / "x"
    damaged.mkdir(parents=True)
    (damaged / "run.json").write_text("half")

    code, out, err = fathom("sync")

    assert code == 1
    assert err == ""
    assert "outputs/damaged/x: not uploaded, outputs/damaged/x/run.json is damaged" in out
    assert recorded.state == "uploaded"


def copy_run(recorded, number):
    """A second run with the same tables and an id of its own."""
    directory = recorded.directory.with_name(f"copy={number}")
    shutil.copytree(recorded.directory, directory)
    info = recorded.info
    info["id"] = f"copy{number}"
    info["mirrored"]["wandb"]["run"]["id"] = info["id"]
    (directory / "run.json").write_text(json.dumps(info))
    copied = type(recorded)(directory)
    copied.change(state="local")
    return copied


def test_a_record_that_cannot_be_written_is_said_to_be_uploaded(
    fathom, recorded, server, has_all_rows, monkeypatch
):
    def refuse(file, _):
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr("research.records.mirror.write_json", refuse)
    code, out, err = fathom("sync")
    assert (code, err) == (1, "")
    file = recorded.directory.relative_to(Path.cwd()) / "run.json"
    assert out.endswith(f": uploaded, but {file} cannot be written: Permission denied\n")
    assert has_all_rows(server, recorded.id)


def test_several_runs_are_uploaded_at_once_and_counted(fathom, recorded, server):
    copies = [copy_run(recorded, number) for number in range(3)]
    recorded.change(state="uploaded")

    _, out, _ = fathom("sync", "--dry-run")
    assert "copy=1: about 25 rows\n" in out
    assert out.endswith("3 to upload, 1 already in W&B\n")
    assert server.runs == {}

    code, out, _ = fathom("sync", "--jobs", "2")
    assert code == 0, out
    assert out.count(": uploaded") == 3
    assert out.endswith("3 uploaded, 1 already in W&B\n")
    for copy in copies:
        assert copy.state == "uploaded"
        assert [row.get("train/step") for row in server.rows[copy.id]] == [*range(25), None]


@pytest.mark.slow
def test_copies_of_a_run_are_uploaded_one_after_the_other(fathom, recorded, server, has_all_rows):
    for name in ("copy", "another"):
        shutil.copytree(recorded.directory.parent, recorded.directory.parents[1] / name)

    code, out, _ = fathom("sync")

    assert code == 0, out
    assert out.count(": uploaded") == 3
    assert has_all_rows(server, recorded.id)


def test_the_failure_of_one_upload_does_not_touch_those_beside_it(fathom, recorded, server):
    copies = [copy_run(recorded, number) for number in range(2)]
    (copies[0].directory / "profiles.parquet").write_text("half")

    code, out, _ = fathom("sync")

    assert code == 1
    assert "copy=0: not uploaded, " in out
    assert out.endswith("2 uploaded, 1 failed\n")
    assert copies[1].state == recorded.state == "uploaded"


@pytest.mark.parametrize("jobs", ["0", "many", "99"])
def test_a_number_of_uploads_that_is_none_is_refused(fathom, recorded, jobs):
    code, out, err = fathom("sync", "--jobs", jobs)
    assert (code, out) == (2, "")
    assert err == f"fathom: --jobs must be a whole number from 1 to 16, got {jobs}\n"


@pytest.mark.parametrize("num_rows", one_in(3, [(10,), (0,), (26,)]))
def test_a_folder_without_a_record_is_uploaded_once(
    fathom, offline_run, server, has_all_rows, num_rows
):
    run_id = offline_run.name.rpartition("-")[2]
    assert fathom("sync").code == 0
    del server.rows[run_id][num_rows:]
    (offline_run / "fathom-sync.json").write_text('{"first_row": 0}')

    code, out, _ = fathom("sync")

    assert code == 0, out
    assert out == f"[1/1] {offline_run.name}: uploaded\n"
    assert has_all_rows(server, run_id)
    assert fathom("sync").out.startswith("nothing to upload")


def ask(server, seconds=5.0):
    return ask_for_run(project="fathom", entity=None, run_id="abc", seconds=seconds)


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if kind != "slow"])
def test_a_server_that_cannot_be_used_is_described_in_a_line(server, kind):
    server.break_down(kind)
    with pytest.raises(ServerUnavailable) as raised:
        ask(server, seconds=0.2 if kind == "hang" else 5.0)
    message = str(raised.value)
    assert message.startswith(server.address)
    assert "\n" not in message
    if kind in STATUS_OF_FAULT and kind != "html":
        assert f"HTTP {kind}" in message


def test_the_server_says_how_far_it_is(server):
    assert ask(server) == Uploaded(num_rows=0)
    server.rows["abc"] = [{"_step": 0}, {"_step": 1}]
    uploaded = Uploaded(num_rows=2, last_row={"_step": 1}, server_id="id of abc")
    assert ask(server) == uploaded
    server.ended.add("abc")
    assert ask(server) == dataclasses.replace(uploaded, has_ended=True)


def test_without_a_key_the_user_is_told_to_log_in(server, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    with pytest.raises(ServerUnavailable, match="wandb login"):
        ask(server)


def test_an_address_that_is_none_is_described(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "nowhere")
    with pytest.raises(ServerUnavailable, match="nowhere"):
        ask(None)


def test_the_runs_of_a_group_end_in_wandb_at_the_same_time(
    fathom, small, workplace, monkeypatch, quickly_compiled
):
    """So that a dead server is waited for once, not once for each run."""
    together = threading.Barrier(3)

    def finish(tracker, info):
        together.wait(timeout=60)
        return tracker.pending | {"state": "local"}

    monkeypatch.setattr(WandbTracker, "start", lambda _: {})
    monkeypatch.setattr(WandbTracker, "log", lambda *_: None)
    monkeypatch.setattr(WandbTracker, "finish", finish)
    code, _, err = fathom("train", "-m", *small, "hydra/launcher=grouped", "name=x", "seed=1,2,3")
    assert code == 0, err
    for file in workplace.glob("outputs/x/*/run.json"):
        assert json.loads(file.read_text())["mirrored"]["wandb"]["state"] == "local"


def test_a_run_stays_pending_if_its_tracker_fails(
    fathom, small, workplace, monkeypatch, quickly_compiled
):
    def fail(*_):
        raise ConnectionResetError("Connection lost")

    monkeypatch.setattr(WandbTracker, "start", lambda _: {})
    monkeypatch.setattr(WandbTracker, "log", fail)
    code, _, err = fathom("train", *small, "name=x")
    assert code == 0
    assert err.count("Connection lost") == 1
    assert "fathom sync" in err
    (file,) = workplace.glob("outputs/x/*/run.json")
    info = json.loads(file.read_text())
    assert info["status"] == "done"
    assert info["mirrored"]["wandb"]["state"] == "pending"


def test_wandbs_process_is_ended_after_a_failure(workplace):
    run = wandb.init(mode="offline", project="x", dir=str(workplace), settings={"silent": True})
    (pid,) = service_pids()
    stop_service()
    assert pid not in service_pids()
    stop_service()  # nothing is left to end
    assert run.id in str(*workplace.glob("wandb/offline-run-*"))


def test_a_process_that_does_not_end_is_killed(workplace, monkeypatch):
    wandb.init(mode="offline", project="x", dir=str(workplace), settings={"silent": True})
    (pid,) = service_pids()
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr("research.records.trackers.service.TEARDOWN_SECONDS", 0.2)
    stop_service()
    with contextlib.suppress(ChildProcessError):  # W&B itself may have waited for it
        os.waitpid(pid, 0)
    assert pid not in service_pids()


def test_the_rows_of_a_run_are_read_as_they_were_added(finished):
    directory, _ = finished
    rows = read_rows(directory)
    run = Run(directory)
    assert rows.num_rows == 25
    assert np.ma.count(rows.metrics["eval_loss"]) == 3
    steps = []
    for part in rows.split(10):
        steps.append(part.metrics["step"].tolist())
        assert part.metrics["step"].tolist() == part.profiles["step"].tolist()
    assert steps == [list(range(10)), list(range(10, 20)), list(range(20, 25))]
    assert np.array_equal(rows.profiles["grad_norm"], run.profiles["grad_norm"])


def test_rows_whose_steps_lie_far_apart_are_split_at_once():
    """A loop may count tokens: 10^15 steps must not take 10^12 parts."""
    steps = np.array([0, 7, 10**9, 10**15])
    profiles = {"step": steps[[0, 2]]}
    rows = RecordedRows(metrics={"step": steps}, profiles=profiles, inspections={})
    parts = list(rows.split(2))
    assert [part.metrics["step"].tolist() for part in parts] == [[0, 7], [10**9, 10**15]]
    assert [part.profiles["step"].tolist() for part in parts] == [[0], [10**9]]


def test_a_server_on_this_machine_is_asked_without_the_users_proxy(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert ask(server) == Uploaded(num_rows=0)
