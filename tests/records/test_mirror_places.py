"""``fathom sync`` sends a run to the server and the project that the environment names now."""

import json

import pytest

from research.records.trackers.views import has_pending_views, send_views, write_views

pytestmark = pytest.mark.usefixtures("fresh_service")


def test_a_run_is_sent_to_another_server_too(
    fathom, recorded, server, other_server, has_all_rows, monkeypatch
):
    assert fathom("sync").code == 0
    assert recorded.info["mirrored"]["wandb"]["server"] == server.address

    monkeypatch.setenv("WANDB_BASE_URL", f"{other_server.address}/")
    assert fathom("sync", "--dry-run").out.endswith("1 to upload, 0 already in W&B\n")
    said = fathom("sync")

    place = f"outputs/first/{recorded.directory.name}"
    assert said.code == 0
    assert said.out == f"[1/1] {place}: uploaded to {other_server.address}/fathom\n"
    assert has_all_rows(other_server, recorded.id)
    assert fathom("sync").out.startswith("nothing to upload, 1 already in W&B")

    other_server.runs.clear()
    server.runs.clear()
    monkeypatch.setenv("WANDB_BASE_URL", server.address)
    assert fathom("sync").code == 0  # it asks the first server, which has everything
    assert server.runs == {}
    assert has_all_rows(server, recorded.id)


@pytest.mark.parametrize(
    ("variable", "key", "place"),
    [("WANDB_PROJECT", "theirs/{}", "theirs"), ("WANDB_ENTITY", "{}", "theirs/fathom")],
)
def test_a_run_is_sent_to_the_project_that_the_environment_names(
    fathom, recorded, server, monkeypatch, variable, key, place
):
    fathom("sync")
    server.rows.clear()
    monkeypatch.setenv(variable, "theirs")
    said = fathom("sync")
    assert said.code == 0
    assert said.out.endswith(f": uploaded to {server.address}/{place}\n")
    assert len(server.rows[key.format(recorded.id)]) == 26
    assert fathom("sync").out.startswith("nothing to upload, 1 already in W&B")
    monkeypatch.delenv(variable)
    assert fathom("sync").out.startswith("nothing to upload, 1 already in W&B")


def test_the_project_that_a_run_was_given_counts_more_than_that_of_the_environment(
    fathom, recorded, server, monkeypatch
):
    config = recorded.directory / ".hydra" / "config.yaml"
    text = config.read_text()
    assert text.count("project: fathom") == 1
    config.write_text(text.replace("project: fathom", "project: mine"))
    info = recorded.info
    info["mirrored"]["wandb"]["project"] = "mine"
    recorded.change(**info)
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    assert fathom("sync").out.endswith(": uploaded\n")
    assert set(server.rows) == {f"mine/{recorded.id}"}
    assert fathom("sync").out.startswith("nothing to upload, 1 already in W&B")


@pytest.mark.parametrize("is_sent_first", [False, True])
def test_a_project_that_is_given_anew_is_where_a_finished_run_goes(
    fathom, small, recorded, offline_run, server, wandb_records, workplace, is_sent_first
):
    if is_sent_first:
        fathom("sync")
        server.rows.clear()
    said = fathom("train", *small, "name=first", "tracker.project=mine")
    assert said.err.count("recorded the W&B project mine; `fathom sync` sends") == 1
    assert fathom("train", *small, "name=first").err.count("project") == 0
    if not is_sent_first:
        (folder,) = workplace.glob("outputs/wandb/offline-run-*")
        (run,) = (record["run"] for record in wandb_records(folder) if record["type"] == "run")
        assert run["project"] == "mine"

    said = fathom("sync")

    assert said.code == 0, said.out
    assert set(server.rows) == {f"mine/{recorded.id}"}
    assert len(server.rows[f"mine/{recorded.id}"]) == 26
    assert fathom("sync").out.startswith("nothing to upload, 1 already in W&B")


def test_a_project_that_a_sweep_gives_anew_is_recorded(fathom, small, recorded):
    said = fathom("train", "-m", *small, "name=first", "tracker.project=mine")
    assert said.err.count("recorded the W&B project mine; `fathom sync` sends") == 1
    assert recorded.info["mirrored"]["wandb"]["project"] == "mine"


def test_a_record_without_the_address_of_a_server_counts_as_uploaded(fathom, recorded, server):
    """Those of earlier versions have none."""
    assert "server" not in recorded.info["mirrored"]["wandb"]
    recorded.change(state="uploaded")
    assert fathom("sync").out.startswith("nothing to upload, 1 already in W&B")
    assert server.runs == {}


def test_a_folder_without_a_record_is_sent_to_another_server_too(
    fathom, offline_run, server, other_server, has_all_rows, monkeypatch
):
    run_id = offline_run.name.rpartition("-")[2]
    assert fathom("sync").code == 0
    monkeypatch.setenv("WANDB_BASE_URL", other_server.address)
    assert fathom("sync").out == f"[1/1] {offline_run.name}: uploaded\n"
    assert has_all_rows(other_server, run_id)
    assert len(server.rows[run_id]) == 26
    assert fathom("sync").out.startswith("nothing to upload")


def test_a_view_is_new_on_another_server(server, other_server, monkeypatch, tmp_path):
    view = {"kind": "workspace", "type": "project-view", "name": "nw-view-v", "title": "Runs"}
    write_views(tmp_path, [view | {"project": "fathom", "entity": None, "spec": {}}])
    send_views(tmp_path)
    assert not has_pending_views(tmp_path)

    monkeypatch.setenv("WANDB_BASE_URL", other_server.address)
    assert has_pending_views(tmp_path)
    send_views(tmp_path)
    assert not has_pending_views(tmp_path)
    (saving,) = other_server.views["nw-view-v"]
    assert saving["id"] is None
    (sent,) = json.loads((tmp_path / "workspace.json").read_text())["views"]
    assert sent["server"] == other_server.address


def test_a_run_that_gets_wandb_later_has_the_names_of_the_environment(
    fathom, small, recorded, monkeypatch
):
    info = recorded.info
    del info["mirrored"]
    del info["wandb"]
    (recorded.directory / "run.json").write_text(json.dumps(info))
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_RUN_GROUP", "our group")
    assert fathom("train", *small, "name=first").code == 0
    state = recorded.info["mirrored"]["wandb"]
    assert state["project"] == "theirs"
    assert state["run"]["group"] == "our group"
