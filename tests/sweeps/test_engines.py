"""What each engine returns: the results, or the failure of a task that the system killed.

tests/sweeps/slurm.sh and tests/sweeps/ray.sh set up the two engines that a machine may lack.
"""

import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from typing import Any

import pytest
import yaml
from hydra.core.config_store import ConfigStore

from research.config.packages import PACKAGE_OF_LAUNCHER
from research.config.schema import Config
from research.records.record import Lock
from research.records.runs import Run
from research.runner.run_spec import RunSpec
from research.runner.signals import terminable
from research.sweeps.engines import (
    GroupTask,
    run_with_joblib,
    run_with_ray,
    run_with_submitit,
)

SMALL_RUNS = ["model.depth=2", "model.width=8", "train.steps=10", "tracker=none", "name=s"]


def is_installed(module):
    return importlib.util.find_spec(module) is not None


def has_slurm():
    if not is_installed("submitit") or not shutil.which("sinfo"):
        return False
    return subprocess.run(["sinfo"], capture_output=True).returncode == 0


def engine(name, is_available, what):
    skip = pytest.mark.skipif(not is_available, reason=f"needs {what}")
    return pytest.param(name, marks=[pytest.mark.slow, skip])


ENGINES = [
    engine("joblib", True, "nothing else"),
    engine("submitit_local", is_installed("submitit"), "the extra cluster"),
    engine("submitit_slurm", has_slurm(), "a running Slurm"),
    engine("ray", is_installed("ray"), "the extra ray"),
]


def run_with(name, tasks, directory):
    """The outcome of each task, by its position."""
    if name == "joblib":
        outcomes = run_with_joblib(tasks, num_workers=2)
    elif name == "ray":
        outcomes = run_with_ray(tasks, init={"num_cpus": 2}, remote={})
    else:
        outcomes = run_with_submitit(
            tasks,
            cluster=name.removeprefix("submitit_"),
            folder=directory / "jobs" / "%j",
            settings={"timeout_min": 5},
        )
    return dict(outcomes)


def successful_task(number):
    return [{"number": number}]


def killed_task():
    os.kill(os.getpid(), signal.SIGKILL)


def task_killed_once(file, ending):
    if file.exists():
        return [{"number": 0}]
    file.touch()
    with terminable():
        os.kill(os.getpid(), ending)
    return []


def raising_task():
    raise RuntimeError("out of luck")


@pytest.mark.parametrize("name", ENGINES)
def test_a_killed_task_does_not_stop_the_others(name, workplace):
    tasks = [
        functools.partial(successful_task, 0),
        killed_task,
        functools.partial(successful_task, 2),
        raising_task,
        functools.partial(successful_task, 4),
    ]
    outcomes = run_with(name, tasks, workplace)
    assert len(outcomes) == 5
    assert outcomes[0] == [{"number": 0}]
    assert outcomes[2] == [{"number": 2}]
    assert outcomes[4] == [{"number": 4}]
    assert isinstance(outcomes[1], BaseException)
    assert isinstance(outcomes[3], BaseException)
    assert "out of luck" in str(outcomes[3])


@pytest.mark.parametrize(
    "ending", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_process_that_is_killed_once_is_one_line_and_its_task_runs_again(tmp_path, capfd, ending):
    task: Any = functools.partial(task_killed_once, tmp_path / "was_here", ending)
    outcomes = dict(run_with_joblib([task], num_workers=1))
    assert outcomes == {0: [{"number": 0}]}
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("fathom: a process of hydra/launcher=joblib was killed, perhaps because")
    assert line.endswith("the runs that have not ended go on one after the other")


def recorded_runs(workplace):
    return [Run(file.parent) for file in workplace.glob("outputs/s/*/run.json")]


def modification_times(workplace):
    times = {}
    for file in workplace.glob("outputs/s/*/run.json"):
        times[file] = file.stat().st_mtime_ns
    return times


@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_trains_every_run_of_a_sweep_once(name, group_size, fathom, workplace):
    command = ["train", "-m", *SMALL_RUNS, "optimizer.learning_rate=0.01,1e30", "seed=0,1"]
    command += [f"hydra/launcher={name}", f"hydra.launcher.max_group_size={group_size}"]
    code, out, err = fathom(*command)
    assert code == 1
    assert "2 of 4 runs did not end well" in err
    assert len(out.splitlines()) == 5
    ends = set()
    for run in recorded_runs(workplace):
        ends.add((run["seed"], run["optimizer.learning_rate"], run.info["status"]))
        assert run.info["group_size"] == group_size
    assert len(recorded_runs(workplace)) == 4
    assert ends == {
        (0, 0.01, "done"),
        (0, 1e30, "diverged"),
        (1, 0.01, "done"),
        (1, 1e30, "diverged"),
    }
    written = modification_times(workplace)
    again = fathom(*command)
    assert "4 of 4 runs had already finished" in again.out
    assert modification_times(workplace) == written


@pytest.mark.parametrize("name", PACKAGE_OF_LAUNCHER)
def test_an_engine_that_is_not_installed_is_one_line(name, fathom, workplace, monkeypatch):
    package = PACKAGE_OF_LAUNCHER[name]
    monkeypatch.setitem(sys.modules, package, None)
    code, out, err = fathom("train", "-m", *SMALL_RUNS, "seed=0,1", f"hydra/launcher={name}")
    assert (code, out) == (2, "")
    assert err.startswith(f"fathom: hydra/launcher={name}: {package} is not installed: pip install")
    assert err.count("\n") == 1
    assert list(workplace.iterdir()) == []


@pytest.mark.skipif(is_installed("optuna"), reason="needs an environment without optuna")
def test_a_sweeper_that_is_not_installed_is_one_line(fathom, workplace):
    code, out, err = fathom("train", "-m", *SMALL_RUNS, "seed=0,1", "hydra/sweeper=optuna")
    assert (code, out) == (2, "")
    install = "pip install 'fathom-gradients[search]'"
    assert err == f"fathom: hydra/sweeper=optuna: optuna is not installed: {install}\n"
    assert list(workplace.iterdir()) == []


def test_an_engine_that_does_not_start_leaves_no_folder(fathom, workplace, monkeypatch):
    def fail(*_, **__):
        raise ValueError("the engine does not start")

    monkeypatch.setattr("research.sweeps.engines.run_with_joblib", fail)
    result = fathom("train", "-m", *SMALL_RUNS, "seed=0,1", "hydra/launcher=joblib")
    assert result.code == 2
    assert result.err.endswith("fathom: the engine does not start\n")
    assert list(workplace.iterdir()) == []


def test_a_launcher_of_another_package_does_not_replace_one_of_the_same_name(fathom, workplace):
    """As ``hydra-joblib-launcher`` does, whose plugin Hydra loads last."""
    foreign = {"_target_": "elsewhere.JoblibLauncher"}
    ConfigStore.instance().store(group="hydra/launcher", name="joblib", node=foreign)
    result = fathom("train", "hydra/launcher=joblib", "--cfg", "hydra")
    assert "elsewhere" not in result.out
    assert "hydra_plugins.fathom_engines.JoblibLauncher" in result.out


@pytest.mark.slow
@pytest.mark.skipif(not is_installed("optuna"), reason="needs the extra search")
@pytest.mark.filterwarnings("default")  # Optuna uses what its own dependencies deprecate
@pytest.mark.parametrize("launcher", ["basic", "grouped"])
def test_optuna_minimises_the_held_out_loss(launcher, fathom, workplace):
    said = fathom(
        "train",
        "-m",
        *SMALL_RUNS,
        f"hydra/launcher={launcher}",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=4",
        "hydra.sweeper.n_jobs=2",
        "hydra.sweeper.sampler.seed=1",
        "optimizer.learning_rate=interval(0.001,0.1)",
    )
    assert said.code == 0, said.err
    best = yaml.safe_load((workplace / "outputs/s/optimization_results.yaml").read_text())
    losses = []
    for run in recorded_runs(workplace):
        if run.info["status"] == "done":
            losses.append(run.info["final"]["eval_loss"])
    assert len(losses) == 4, said.err
    assert best["best_value"] == min(losses)


def write_status(directory, status):
    directory.mkdir()
    (directory / "run.json").write_text(json.dumps({"status": status}))


def read_info(directory):
    return json.loads((directory / "run.json").read_text())


def test_the_failure_of_a_killed_task_is_recorded(workplace):
    """A killed process cannot do so itself: its record says that the run is still running."""
    running = workplace / "running"
    finished = workplace / "finished"
    absent = workplace / "absent"
    elsewhere = workplace / "elsewhere"  # another command trains this run
    write_status(running, "running")
    write_status(finished, "done")
    write_status(elsewhere, "running")
    lock = Lock(elsewhere)
    task = GroupTask(
        run_specs=[
            RunSpec(Config(), running),
            RunSpec(Config(), finished),
            RunSpec(Config(), absent),
            RunSpec(Config(), elsewhere),
        ],
        map_mode="auto",
        devices=1,
        working_dir=workplace,
    )
    results = task.record_failure(RuntimeError("gone"))
    lock.release()
    assert len(results) == 4
    for result in results:
        assert result["status"] == "failed"
        assert "killed or lost: RuntimeError: gone" in str(result["error"])
    assert read_info(running)["status"] == "failed"
    assert "gone" in read_info(running)["error"]
    assert read_info(finished)["status"] == "done"
    assert read_info(elsewhere)["status"] == "running"
