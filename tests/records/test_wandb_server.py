"""Where there is a W&B server: online runs, uploads, its searches; and where there is none."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import sys
import threading
from pathlib import Path

import pytest
import wandb
import yaml

from research.config.hydra_config import resource_dir
from research.records.runs import Run
from research.records.trackers.wandb import QUIET

from .server import Server


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def no_server(monkeypatch):
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    return f"127.0.0.1:{port}"


MIRRORS = """
import sys, yaml, numpy as np
from research.records.trackers.wandb import WandbTracker
config = yaml.safe_load(open(sys.argv[1]))
tracker = WandbTracker(settings=config["tracker"], run_id="abc", name="first run", group="study", config=config)
print(tracker.start()["wandb"])
for start in range(0, int(sys.argv[2]), 5):
    step = np.arange(start, start + 5)
    profiles = {"step": step, "signal_grad": np.ones((5, 3)), "grad_norm": np.ones((5, 2))}
    tracker.log({"step": step, "train_loss": 1.0 / (1 + step)}, profiles, {})
tracker.finish({"status": sys.argv[3], "final": {}, "verdict": None})
"""


@pytest.fixture
def mirror(finished, workplace, process):
    """Mirrors some steps in a process of its own that asks for the server: the W&B folder, and what was said."""

    def run(steps=10, status="done"):
        started = process(
            "-c",
            MIRRORS,
            finished[0] / ".hydra" / "config.yaml",
            steps,
            status,
            WANDB_MODE="online",
        )
        try:
            out, err = started.communicate(timeout=60)
        finally:
            started.kill()
        assert started.returncode == 0, err
        return workplace / out.splitlines()[-1], out + err

    return run


def test_without_a_server_an_online_run_goes_on_offline(mirror, no_server):
    resource_dir, said = mirror()
    assert said.count(no_server) == 1 and "fathom sync" in said
    assert resource_dir.name.startswith("offline-run-") and list(resource_dir.glob("run-*.wandb"))


def test_an_online_run_sends_its_rows(mirror, server):
    resource_dir, _ = mirror()
    assert resource_dir.name.startswith("run-")
    run = server.runs["abc"]
    assert (run["groupName"], run["displayName"], run["jobType"]) == ("study", "first run", "train")
    assert "depth:2" in run["tags"]
    rows = server.rows["abc"]
    assert [(row["train/step"], row["train/loss"]) for row in rows[:10]] == [
        (n, 1 / (1 + n)) for n in range(10)
    ]


@pytest.mark.slow
def test_an_online_run_that_goes_on_sends_each_row_once(mirror, server):
    """The next part hands the tracker all rows from the first one on."""
    mirror(steps=5, status="interrupted")
    assert [row["train/step"] for row in server.rows["abc"]] == list(range(5))
    mirror()
    assert [row["train/step"] for row in server.rows["abc"] if "train/step" in row] == list(
        range(10)
    )


def test_a_trial_of_the_servers_search_is_the_run_that_its_agent_waits_for(
    mirror, server, monkeypatch
):
    monkeypatch.setenv("WANDB_SWEEP_ID", "search")
    monkeypatch.setenv("WANDB_RUN_ID", "trial")
    mirror()
    assert set(server.runs) == {"trial"} and server.runs["trial"]["sweep"] == "search"
    assert len(server.rows["trial"]) >= 10


@pytest.mark.slow
def test_an_agent_of_wandb_trains_what_its_server_chooses(server, workplace, process, monkeypatch):
    """``wandb sweep`` and ``wandb agent`` as they are, with the search that the README names, and one trial of it."""
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv(
        "PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    search = resource_dir("conf") / "wandb" / "rate_and_depth.yaml"
    _, err = process("-m", "wandb", "sweep", search.absolute()).communicate(timeout=60)
    (path,) = re.findall(r"sweep agent with: wandb agent (\S+)", err)
    assert yaml.safe_load(server.search)["command"] == yaml.safe_load(search.read_text())["command"]

    chosen = {"optimizer.learning_rate": 0.02, "model.depth": 4, "skip": "none"}
    settings = {path: {"value": value} for path, value in chosen.items()}
    server.trials = [{"type": "run", "run_id": "trial", "program": None, "args": settings}]
    agent = process("-m", "wandb", "agent", "--count", "1", path)
    try:
        _, err = agent.communicate(timeout=240)
    finally:
        agent.kill()
    (file,) = workplace.glob("outputs/rate_and_depth/*/run.json")
    run = Run(file.parent)
    assert agent.returncode == 0 and run.info["status"] == "done", err
    assert [run[path] for path in ("optimizer.learning_rate", "model.depth", "skip.kind")] == list(
        chosen.values()
    )
    assert server.runs["trial"]["sweep"] == "search" and set(server.runs) == {"trial"}
    held_out = [row["eval/loss"] for row in server.rows["trial"] if "eval/loss" in row]
    assert held_out[-1] == run.info["final"]["eval_loss"]  # what the search makes small


@pytest.fixture
def offline(finished, workplace):
    """An offline run below outputs/, ready to be uploaded."""
    (source,) = (finished[0].parents[1] / "wandb").glob("offline-run-*")
    return Path(shutil.copytree(source, workplace / "outputs" / "wandb" / source.name))


@pytest.fixture
def service_elsewhere(tmp_path_factory):
    """W&B's own process, which an upload of this process asks, stays where the first run was."""
    wandb.teardown()
    with contextlib.chdir(tmp_path_factory.mktemp("elsewhere")):
        wandb.init(mode="offline", project="x", settings=wandb.Settings(**QUIET)).finish()
    yield
    wandb.teardown()


@pytest.mark.usefixtures("service_elsewhere")
def test_an_offline_run_is_uploaded_once(fathom, offline, server):
    code, out, err = fathom("sync")
    assert code == 0, out + err
    assert out.count("\n") == 1 and offline.name in out and out.endswith(": uploaded\n")
    (rows,) = server.rows.values()
    assert [row["train/step"] for row in rows if "train/loss" in row] == list(range(25))
    assert [file for file in server.files if "heat_map" in file]
    server.runs.clear()
    code, out, _ = fathom("sync")
    assert code == 0 and "nothing to upload" in out and not server.runs


def test_a_run_that_is_being_trained_is_left_for_later(
    fathom, finished, offline, server, workplace
):
    """W&B marks a folder as uploaded whatever is added to it later."""
    run = workplace / "outputs" / "first" / "run"
    run.mkdir(parents=True)
    info = json.loads((finished[0] / "run.json").read_text()) | {"status": "running"}
    (run / "run.json").write_text(json.dumps(info))
    lock = os.open(run, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    code, out, _ = fathom("sync")
    assert code == 0 and f"{offline.name}: still being trained" in out and not server.runs
    os.close(lock)
    assert fathom("sync").out.endswith(": uploaded\n") and server.runs


def test_what_cannot_be_uploaded_is_said_in_one_line_a_run(offline, process, no_server):
    """In bounded time: W&B itself would ask an absent server again for hours."""
    shutil.copytree(offline, offline.with_name("offline-run-20250101_000000-abcdefgh"))
    ended = process("-c", "import sys; from research.cli.main import run; sys.exit(run(['sync']))")
    try:
        out, _ = ended.communicate(timeout=20)
    finally:
        ended.kill()
    assert ended.returncode == 1
    assert len(out.splitlines()) == 2 and all("offline-run" in line for line in out.splitlines()), (
        out
    )
    assert no_server in out and "option" not in out, out


def test_with_nothing_to_upload_all_is_well(fathom, workplace):
    code, out, _ = fathom("sync")
    assert code == 0 and out.count("\n") == 1 and "nothing to upload" in out
