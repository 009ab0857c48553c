"""Online runs, uploads and searches with a W&B server, and what happens if there is none."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest
import wandb
import yaml

from research.records.runs import Run
from research.records.trackers.wandb import WANDB_SETTINGS


@pytest.fixture
def no_server(monkeypatch):
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://{address}")
    return address


MIRROR = """
import json
import sys
import numpy as np
import yaml
from research.records.trackers.wandb import WandbTracker

config_file, num_steps, status, verdict = sys.argv[1:]
config = yaml.safe_load(open(config_file))
tracker = WandbTracker(
    settings=config["tracker"], run_id="abc", name="first run", group="study", config=config
)
print(tracker.start()["wandb"])
for start in range(0, int(num_steps), 5):
    step = np.arange(start, start + 5)
    profiles = {"step": step, "signal_grad": np.ones((5, 3)), "grad_norm": np.ones((5, 2))}
    tracker.log({"step": step, "train_loss": 1.0 / (1 + step)}, profiles, {})
tracker.finish({"status": status, "final": {}, "verdict": json.loads(verdict)})
"""


@pytest.fixture
def mirror(finished, workplace, process):
    """Mirrors a run online in another process; returns its W&B folder and what was printed."""
    directory, _ = finished
    config_file = directory / ".hydra" / "config.yaml"

    def mirror(steps=10, status="done", verdict=None):
        arguments = [config_file, steps, status, json.dumps(verdict)]
        started = process("-c", MIRROR, *arguments, WANDB_MODE="online")
        try:
            out, err = started.communicate(timeout=60)
        finally:
            started.kill()
        assert started.returncode == 0, err
        folder = out.splitlines()[-1]
        return workplace / folder, out + err

    return mirror


def steps_of(rows):
    return [row["train/step"] for row in rows if "train/step" in row]


def test_without_a_server_an_online_run_is_recorded_offline(mirror, no_server):
    folder, printed = mirror()
    assert printed.count(no_server) == 1
    assert "fathom sync" in printed
    assert folder.name.startswith("offline-run-")
    assert list(folder.glob("run-*.wandb"))


def test_an_online_run_sends_its_rows(mirror, server):
    findings = [
        {"kind": "vanishing", "severity": "severe", "sentence": "Vanishing: …"},
        {"kind": "fitted", "severity": "note", "sentence": "Fitted: …"},
    ]
    folder, _ = mirror(verdict={"kind": "vanishing", "findings": findings})
    assert folder.name.startswith("run-")
    assert server.alerts == ["vanishing: first run"]
    run = server.runs["abc"]
    assert run["groupName"] == "study"
    assert run["displayName"] == "first run"
    assert run["jobType"] == "train"
    assert "depth:2" in run["tags"]
    rows = server.rows["abc"][:10]
    assert steps_of(rows) == list(range(10))
    assert [row["train/loss"] for row in rows] == [1 / (1 + step) for step in range(10)]


@pytest.mark.slow
def test_an_online_run_that_is_resumed_sends_each_row_once(mirror, server):
    """The resumed run gives the tracker all rows again."""
    mirror(steps=5, status="interrupted")
    assert steps_of(server.rows["abc"]) == list(range(5))
    mirror()
    assert steps_of(server.rows["abc"]) == list(range(10))


def test_a_trial_of_the_servers_search_is_the_run_that_its_agent_expects(
    mirror, server, monkeypatch
):
    monkeypatch.setenv("WANDB_SWEEP_ID", "search")
    monkeypatch.setenv("WANDB_RUN_ID", "trial")
    monkeypatch.setenv("WANDB_PROJECT", "searches")
    mirror()
    [(place, run)] = server.runs.items()
    assert (place, run["sweep"]) == ("searches/trial", "search")
    assert len(server.rows[place]) >= 10


def wait_for(condition, seconds=90.0):
    """Waits until something is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def online(server, process, workplace):
    """A run of many slow steps that another process trains and sends; rows of it have arrived."""
    started = []

    def online(**environment):
        settings = ["model.depth=16", "model.width=512", "train.steps=100000", "name=x"]
        run = process("-m", "research", "train", *settings, WANDB_MODE="online", **environment)
        started.append(run)
        wait_for(lambda: server.arrivals or run.poll() is not None)
        assert run.poll() is None, run.communicate()
        return run

    yield online
    for run in started:
        run.kill()
        run.communicate()


def only_run(workplace):
    (file,) = workplace.glob("outputs/x/*/run.json")
    return Run(file.parent)


@pytest.mark.slow
def test_a_run_that_is_stopped_in_wandb_is_written_and_has_the_status_stopped(
    online, server, workplace
):
    run = online()
    (run_id,) = server.rows
    server.stopped.add(run_id)
    out, err = run.communicate(timeout=90)
    assert run.returncode == 0, err
    assert "as wandb asked" in out
    info = only_run(workplace).info
    assert info["status"] == "stopped"
    assert info["stopped"] == {"by": "wandb", "step": info["steps"] - 1}
    assert info["mirrored"]["wandb"]["state"] == "uploaded"
    assert run_id in server.ended
    assert len(server.rows[run_id]) == info["steps"] + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("is_stopped", "status", "code"), [(True, "stopped", 0), (False, "interrupted", 1)]
)
def test_a_signal_to_a_trial_that_its_sweep_has_ended_stops_it(
    online, server, workplace, is_stopped, status, code
):
    """An agent sends SIGTERM to such a trial, and also to all of them when it is ended itself."""
    run = online(WANDB_SWEEP_ID="search", WANDB_RUN_ID="trial")
    if is_stopped:
        server.stopped.add("trial")
    run.terminate()
    _, err = run.communicate(timeout=90)
    assert run.returncode == code, err
    assert ("interrupted" in err) is not is_stopped
    assert only_run(workplace).info["status"] == status


@pytest.mark.slow
def test_the_first_row_of_an_online_run_arrives_soon_and_the_others_every_few_seconds(
    online, server
):
    online()
    (run_id,) = server.rows
    started_at = server.rows[run_id][0]["_timestamp"]
    first_arrival, _ = server.arrivals[run_id][0]
    assert first_arrival - started_at < 5
    num_seen = len(server.arrivals[run_id])
    wait_for(lambda: len(server.arrivals[run_id]) > num_seen, seconds=10)


@pytest.fixture(params=["documented", "generated"])
def search_file(request, fathom, workplace):
    """A configuration for ``wandb sweep``: that of the documentation, or one that Fathom writes."""
    if request.param == "documented":
        return Path(__file__).parents[2] / "docs" / "examples" / "wandb_sweep.yaml"
    words = ["model.depth=4,16", "skip=none,inv_sqrt_depth", "name=rate_and_depth"]
    rate = "optimizer.learning_rate=tag(log,interval(0.001,0.3))"
    assert fathom("train", "-m", *words, rate, "--wandb-sweep", "--hyperband").code == 0
    return workplace / "outputs" / "rate_and_depth" / "wandb_sweep.yaml"


@pytest.fixture
def search(search_file, server, workplace, process, monkeypatch):
    """A search that was created with ``wandb sweep``: its file and its path."""
    monkeypatch.delenv("WANDB_MODE")
    bin_folder = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([bin_folder, os.environ["PATH"]]))
    _, err = process("-m", "wandb", "sweep", search_file.absolute()).communicate(timeout=60)
    (path,) = re.findall(r"sweep agent with: wandb agent (\S+)", err)
    return search_file, path


@pytest.mark.slow
def test_an_agent_of_wandb_trains_what_its_server_chooses(server, search, workplace, process):
    file, path = search
    written = yaml.safe_load(file.read_text())
    sent = yaml.safe_load(server.search)
    assert {name: sent[name] for name in written} == written

    settings = {
        "optimizer.learning_rate": {"value": 0.02},
        "model.depth": {"value": 4},
        "skip": {"value": "none"},
    }
    server.trials = [{"type": "run", "run_id": "trial", "program": None, "args": settings}]
    agent = process("-m", "wandb", "agent", "--count", "1", path)
    try:
        _, err = agent.communicate(timeout=240)
    finally:
        agent.kill()
    assert agent.returncode == 0, err
    (run_json,) = workplace.glob("outputs/rate_and_depth/*/run.json")
    run = Run(run_json.parent)
    assert run.info["status"] == "done"
    assert run["optimizer.learning_rate"] == 0.02
    assert run["model.depth"] == 4
    assert run["skip.kind"] == "none"
    assert set(server.runs) == {"trial"}
    assert server.runs["trial"]["sweep"] == "search"
    eval_losses = [row["eval/loss"] for row in server.rows["trial"] if "eval/loss" in row]
    assert eval_losses[-1] == run.info["final"]["eval_loss"]  # the search minimises it


@pytest.fixture
def service_elsewhere(tmp_path_factory):
    """Starts W&B's service, which this process uses for uploads, in another working directory."""
    wandb.teardown()
    settings = wandb.Settings(**WANDB_SETTINGS)
    with contextlib.chdir(tmp_path_factory.mktemp("elsewhere")):
        wandb.init(mode="offline", project="x", settings=settings).finish()
    yield
    wandb.teardown()


@pytest.mark.usefixtures("service_elsewhere")
def test_an_offline_run_is_uploaded_once(fathom, offline_run, server):
    code, out, err = fathom("sync")
    assert code == 0, out + err
    assert out.count("\n") == 1
    assert offline_run.name in out
    assert out.endswith(": uploaded\n")
    (rows,) = server.rows.values()
    training_rows = [row for row in rows if "train/loss" in row]
    assert steps_of(training_rows) == list(range(25))
    assert [file for file in server.files if "heat_map" in file]

    server.runs.clear()
    code, out, _ = fathom("sync")
    assert code == 0
    assert "nothing to upload" in out
    assert not server.runs


def test_a_run_that_is_being_trained_is_uploaded_later(
    fathom, finished, offline_run, server, workplace
):
    """W&B never uploads a folder a second time, even if rows were added."""
    directory, _ = finished
    info = json.loads((directory / "run.json").read_text())
    info["status"] = "running"
    run = workplace / "outputs" / "first" / "run"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps(info))
    lock = os.open(run, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    code, out, _ = fathom("sync")
    assert code == 0
    assert f"{offline_run.name}: still being trained" in out
    assert not server.runs

    os.close(lock)
    assert fathom("sync").out.endswith(": uploaded\n")
    assert server.runs


SYNC = "import sys; from research.cli.main import run; sys.exit(run(['sync']))"


def test_without_a_server_each_run_is_one_line(offline_run, process, no_server):
    """It must not take long: W&B itself would retry for hours."""
    shutil.copytree(offline_run, offline_run.with_name("offline-run-20250101_000000-abcdefgh"))
    sync = process("-c", SYNC)
    try:
        out, _ = sync.communicate(timeout=20)
    finally:
        sync.kill()
    assert sync.returncode == 1
    *lines, closing = out.splitlines()
    assert len(lines) == 2, out
    assert closing == "2 failed"
    for line in lines:
        assert "offline-run" in line
    assert no_server in out
    assert "option" not in out
