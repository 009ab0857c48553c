"""What the environment sets and W&B refuses is named in one line."""

import os

import pytest
import wandb

from research.records.trackers import TrackerReports, describe_error
from research.records.trackers.identity import check_mode, check_project
from research.records.trackers.server import ServerUnavailable, ask_server, import_wandb
from research.records.trackers.wandb import choose_mode

pytestmark = pytest.mark.usefixtures("fresh_service")


def test_the_setting_that_wandb_refuses_is_named(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(ValueError, match="validation error") as refused:
        wandb.Settings(mode="bogus")  # pyright: ignore[reportArgumentType]
    line = describe_error(refused.value)
    assert line.startswith("W&B's setting mode: Input should be 'online', 'offline'")
    monkeypatch.setenv("WANDB_MODE", "bogus")
    assert describe_error(refused.value).startswith("WANDB_MODE: Input should be 'online'")
    assert "\n" not in line


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", None])
def test_a_refused_setting_is_not_taken_for_a_wrong_address(monkeypatch, address):
    if address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
    monkeypatch.setenv("WANDB_TAGS", ",,")
    with pytest.raises(ServerUnavailable, match="W&B's setting run_tags: .*empty"):
        ask_server("query", {}, 1)


@pytest.mark.parametrize("name", ["WANDB_SWEEP_ID", "WANDB_LAUNCH"])
def test_what_is_left_of_a_search_does_not_give_a_run_another_id(monkeypatch, capsys, name):
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    monkeypatch.setenv(name, "abc")
    import_wandb()
    assert name not in os.environ
    line = f"fathom: {name} is ignored, because there is no WANDB_RUN_ID\n"
    assert capsys.readouterr().err == line
    monkeypatch.setenv(name, "abc")
    monkeypatch.setenv("WANDB_RUN_ID", "trial")
    import_wandb()
    assert os.environ[name] == "abc"


def test_an_empty_mode_is_none(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "")
    import_wandb().Settings()
    assert "WANDB_MODE" not in os.environ


@pytest.mark.parametrize("name", ["WANDB_CACHE_DIR", "WANDB_DATA_DIR"])
def test_a_folder_that_cannot_be_written_is_replaced_and_said_once(
    monkeypatch, tmp_path, capsys, name
):
    (tmp_path / "file").touch()
    monkeypatch.setenv(name, str(tmp_path / "file" / "folder"))
    import_wandb()
    import_wandb()
    said = capsys.readouterr().err
    assert said.startswith(f"fathom: W&B cannot write to {tmp_path}/file/folder ({name})")
    assert said.count("\n") == 1
    assert os.access(os.environ[name], os.W_OK)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["WANDB_CACHE_DIR", "WANDB_DATA_DIR"])
def test_a_run_is_sent_without_the_folders_of_wandb(server, process, tmp_path, monkeypatch, name):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, str(tmp_path / "file" / "folder"))
    settings = ("model.depth=2", "train.steps=3")
    ended = process("-m", "research", "train", *settings, WANDB_MODE="online")
    _, error = ended.communicate()
    assert ended.returncode == 0
    assert "INFO" not in error
    (rows,) = server.rows.values()
    assert [row.get("train/step") for row in rows] == [0, 1, 2, None]


@pytest.mark.parametrize("project", ["a/b", "a:b", "x" * 129])
def test_a_project_that_wandb_refuses_is_refused_before_anything_is_recorded(monkeypatch, project):
    with pytest.raises(ValueError, match="tracker.project must be the name of a W&B project"):
        check_project({"project": project, "entity": None})
    monkeypatch.setenv("WANDB_PROJECT", project)
    with pytest.raises(ValueError, match="WANDB_PROJECT must be the name of a W&B project"):
        check_project({"project": "fathom", "entity": None})


def test_a_mode_that_wandb_does_not_have_is_refused_before_anything_is_trained(
    fathom, workplace, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "ofline")

    said = fathom("train", "model.depth=2")

    assert said.code == 2
    assert said.err == (
        "fathom: WANDB_MODE must be one of online, offline, disabled, got ofline; "
        "did you mean offline?\n"
    )
    assert list(workplace.iterdir()) == []


@pytest.mark.parametrize("mode", ["", "offline", "dryrun", "online", "run", "shared", "disabled"])
def test_a_mode_of_wandb_is_valid(monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    check_mode()


@pytest.mark.parametrize("mode", ["online", "shared", "run"])
def test_each_mode_that_needs_a_server_is_offline_without_one(monkeypatch, capsys, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_BASE_URL", "nowhere")
    pending = {"project": "fathom", "entity": None, "run": {"id": "a"}}

    assert choose_mode(pending, TrackerReports()).mode == "offline"
    assert "recording offline, upload with `fathom sync`" in capsys.readouterr().err


@pytest.mark.slow
def test_a_server_that_is_too_slow_at_the_end_is_said_to_be(server, fathom, small, monkeypatch):
    """W&B copies its settings where the time is up, with what Fathom has put into them."""
    monkeypatch.setenv("WANDB_MODE", "online")
    said = fathom("train", *small, "name=slow", "tracker.finish_timeout=0.001")
    assert said.code == 0
    assert "TypeError" not in said.err
    assert fathom("sync").code == 0
    assert [row.get("train/step") for (row, *_) in server.rows.values()] == [0]
