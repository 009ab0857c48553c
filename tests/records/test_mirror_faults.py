"""Servers that fail and processes that are killed, with training and uploads in other processes."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from .server import FAULTS

pytestmark = pytest.mark.slow

FATHOM = "import sys; from research.cli.main import run; sys.exit(run(sys.argv[1:]))"
MOMENTS = ["start", "middle", "end"]
NUM_STEPS = 60
LONG = 4000
SETTINGS = ["model.depth=2", "model.width=8", "train.batch_size=32", "tracker.finish_timeout=5"]


@pytest.fixture
def run_fathom(process, workplace):
    """Runs a command of fathom in another process; returns its exit code and its output."""

    def run_fathom(*words, **environment):
        started = process("-c", FATHOM, *words, **environment)
        try:
            out, err = started.communicate(timeout=400)
        finally:
            started.kill()
        return started.returncode, out, err

    return run_fathom


@pytest.fixture(scope="module")
def two_runs(process, tmp_path_factory):
    """A folder with two runs that were recorded offline."""
    place = tmp_path_factory.mktemp("two")
    words = ["train", "-m", *SETTINGS, f"train.steps={NUM_STEPS}", "name=x", "seed=0,1"]
    before = Path.cwd()
    os.chdir(place)
    try:
        training = process("-c", FATHOM, *words)
    finally:
        os.chdir(before)
    _, err = training.communicate(timeout=400)
    assert training.returncode == 0, err
    return place


def check_server(server, num_runs, num_steps=NUM_STEPS):
    """Checks that the server has each row of each run once, and its pictures once."""
    assert server.gaps == []
    assert len(server.rows) == num_runs
    for run_id, rows in server.rows.items():
        assert [row.get("train/step") for row in rows] == [*range(num_steps), None]
        assert {"profile/heat_map", "profile/table"} <= rows[-1].keys()
        assert run_id in server.ended
    assert any("heat_map" in file for file in server.files)
    assert any("media/table" in file for file in server.files)


def start_with_fault(mode, run_fathom, two_runs, workplace):
    """Trains one run, or six as a group, online; or uploads two runs. Returns the number of runs.

    Training succeeds whatever the server does, and says in at most one line that W&B failed.
    """
    if mode == "sync":
        shutil.copytree(two_runs, workplace, dirs_exist_ok=True, symlinks=True)
        _, _, err = run_fathom("sync")
        assert "Traceback" not in err
        return 2
    words = ["train", *SETTINGS, f"train.steps={NUM_STEPS}", "name=x"]
    num_runs = 1
    if mode == "group":
        words += ["-m", "hydra/launcher=grouped", "seed=range(0,6)"]
        num_runs = 6
    code, _, err = run_fathom(*words, WANDB_MODE="online")
    assert code == 0, err
    assert "Traceback" not in err
    assert err.count("fathom: ") <= 1
    return num_runs


@pytest.mark.parametrize("mode", ["run", "group", "sync"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", FAULTS)
def test_after_any_fault_one_upload_completes_everything(
    server, run_fathom, two_runs, workplace, kind, moment, mode
):
    server.break_down(kind, moment)
    num_runs = start_with_fault(mode, run_fathom, two_runs, workplace)
    server.break_down(None)

    code, out, err = run_fathom("sync")

    assert code == 0, out + err
    check_server(server, num_runs)
    _, out, _ = run_fathom("sync")
    assert out.startswith("nothing to upload")
    check_server(server, num_runs)


def read_status(workplace):
    for file in workplace.glob("outputs/x/*/run.json"):
        return json.loads(file.read_text())["status"]
    return ""


def kill_when(process, is_due, seconds):
    """Kills a process some seconds after a condition is met."""
    while process.poll() is None and not is_due():
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("seed", range(30))
def test_kills_lose_nothing_and_double_nothing(server, process, run_fathom, workplace, seed):
    """SIGKILL while training, after the training is done, and while uploading."""
    draw = random.Random(seed)
    mode = ["online", "offline"][seed % 2]
    words = ["train", *SETTINGS, f"train.steps={LONG}", f"train.eval_every={LONG}", "name=x"]
    words += ["checkpoint.every=1"]
    status = ["running", "done"][seed // 2 % 2]
    training = process("-c", FATHOM, *words, WANDB_MODE=mode)
    kill_when(training, lambda: read_status(workplace) == status, draw.uniform(0, 1.5))

    code, _, err = run_fathom(*words, WANDB_MODE=mode)
    assert code == 0, err
    (directory,) = workplace.glob("outputs/x/*")
    left = {path.name for path in directory.iterdir()}
    assert left == {".hydra", "run.json", "metrics.parquet", "profiles.parquet"}
    for _ in range(2):
        uploading = process("-c", FATHOM, "sync")
        kill_when(uploading, lambda: bool(server.rows), draw.uniform(0, 1.0))

    code, out, err = run_fathom("sync")
    assert code == 0, out + err
    check_server(server, 1, LONG)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_upload_is_one_line(server, process, two_runs, workplace, moment, number):
    shutil.copytree(two_runs, workplace, dirs_exist_ok=True, symlinks=True)
    server.break_down("hang", moment)
    uploading = process("-c", FATHOM, "sync")
    while not server.num_faults:
        time.sleep(0.01)
    uploading.send_signal(number)
    _, err = uploading.communicate(timeout=60)
    assert uploading.returncode == 1
    assert err.count("\n") == 1
    assert "fathom sync" in err


KILL_SERVICE = """
import os, signal, subprocess, sys, threading, time
from research.cli.main import run
from research.records.trackers.wandb import WandbTracker

log = WandbTracker.log

def log_and_kill(tracker, metrics, profiles, diagnostics):
    log(tracker, metrics, profiles, diagnostics)
    if 1000 in metrics["step"]:
        listing = subprocess.run(
            ["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True, text=True
        )
        os.kill(int(listing.stdout), signal.SIGKILL)

WandbTracker.log = log_and_kill
sys.exit(run(sys.argv[1:]))
"""


def test_the_death_of_wandbs_own_process_is_one_line(server, process, run_fathom, workplace):
    words = ["train", *SETTINGS, f"train.steps={LONG}", f"train.eval_every={LONG}", "name=x"]
    training = process("-c", KILL_SERVICE, *words, WANDB_MODE="online")
    _, err = training.communicate(timeout=400)
    assert training.returncode == 0, err
    assert err.count("fathom: ") == 1
    assert "Traceback" not in err

    code, out, err = run_fathom("sync")
    assert code == 0, out + err
    check_server(server, 1, LONG)
