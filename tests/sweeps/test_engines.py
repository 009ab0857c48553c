"""What each engine brings back: results, and of a job that the system killed that it was. bash tests/sweeps/slurm.sh
and bash tests/sweeps/ray.sh make the two that a machine may lack."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess

import pytest
import yaml

from research.config.schema import Config
from research.records.runs import Run
from research.runner.run_spec import RunSpec
from research.sweeps.engines import Load, as_jobs, on_processes, on_ray


def is_there(module):
    return importlib.util.find_spec(module) is not None


def slurm_runs():
    return (
        bool(shutil.which("sinfo"))
        and subprocess.run(["sinfo"], capture_output=True).returncode == 0
    )


def needs(condition, what):
    return [pytest.mark.slow, pytest.mark.skipif(not condition, reason=f"needs {what}")]


NAMES = [
    pytest.param("joblib", marks=pytest.mark.slow),
    pytest.param("submitit_local", marks=needs(is_there("submitit"), "the extra cluster")),
    pytest.param(
        "submitit_slurm", marks=needs(is_there("submitit") and slurm_runs(), "a running Slurm")
    ),
    pytest.param("ray", marks=needs(is_there("ray"), "the extra ray")),
]


def carry(name, loads, place):
    """All that the engine of that name brings back."""
    jobs = {"folder": place / "jobs" / "%j", "settings": {"timeout_min": 5}}
    engines = {
        "joblib": lambda: on_processes(loads, jobs=2),
        "submitit_local": lambda: as_jobs(loads, cluster="local", **jobs),
        "submitit_slurm": lambda: as_jobs(loads, cluster="slurm", **jobs),
        "ray": lambda: on_ray(loads, init={"num_cpus": 2}, remote={}),
    }
    return dict(engines[name]())


@pytest.mark.parametrize("name", NAMES)
def test_a_job_that_is_killed_leaves_the_others(name, workplace):
    def works(number):
        return lambda: [{"number": number}]

    def is_killed():
        os.kill(os.getpid(), signal.SIGKILL)

    def breaks():
        raise RuntimeError("out of luck")

    came = carry(name, [works(0), is_killed, works(2), breaks, works(4)], workplace)
    assert {number: came[number] for number in (0, 2, 4)} == {n: [{"number": n}] for n in (0, 2, 4)}
    assert (
        isinstance(came[1], BaseException) and isinstance(came[3], BaseException) and len(came) == 5
    )
    assert "out of luck" in str(came[3])


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_comes_back_whole(name, most, fathom, workplace):
    words = ["model.depth=2", "model.width=8", "train.steps=10", "tracker=none", "name=s"]
    rates = "optimizer.learning_rate=0.01,1e30"
    launcher = [f"hydra/launcher={name}", f"hydra.launcher.max_group_size={most}"]
    code, out, err = fathom("train", "-m", *words, rates, "seed=0,1", *launcher)
    assert code == 1 and "2 of 4 runs did not end well" in err, err
    runs = [Run(file.parent) for file in workplace.glob("outputs/s/*/run.json")]
    ends = sorted((run["seed"], run["optimizer.learning_rate"], run.info["status"]) for run in runs)
    assert ends == [(seed, *end) for seed in (0, 1) for end in ((0.01, "done"), (1e30, "diverged"))]
    assert {run.info["together"] for run in runs} == {most} and len(out.splitlines()) == 5
    written = [file.stat().st_mtime_ns for file in sorted(workplace.glob("outputs/s/*/run.json"))]
    again = fathom("train", "-m", *words, rates, "seed=0,1", *launcher)
    assert "4 of 4 runs were there already" in again.out
    assert [
        file.stat().st_mtime_ns for file in sorted(workplace.glob("outputs/s/*/run.json"))
    ] == written


@pytest.mark.slow
@pytest.mark.skipif(not is_there("optuna"), reason="needs the extra search")
@pytest.mark.parametrize("launcher", ["basic", "grouped"])
def test_optuna_minimises_the_held_out_loss(launcher, fathom, workplace):
    words = [
        "model.depth=2",
        "model.width=8",
        "train.steps=10",
        "tracker=none",
        "name=s",
        f"hydra/launcher={launcher}",
    ]
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2"]
    said = fathom(
        "train",
        "-m",
        *words,
        *search,
        "optimizer.learning_rate=interval(0.001,0.1)",
        "hydra.sweeper.sampler.seed=1",
    )
    runs = [Run(file.parent) for file in workplace.glob("outputs/s/*/run.json")]
    best = yaml.safe_load((workplace / "outputs/s/optimization_results.yaml").read_text())
    losses = [run.info["final"]["eval_loss"] for run in runs if run.info["status"] == "done"]
    assert len(losses) == 4 and best["best_value"] == min(losses), said.err


def test_the_record_of_a_lost_job_says_so(workplace):
    """Its runs could not: what a killed process leaves is a run that goes on for ever."""
    for name, status in (("a", "running"), ("b", "done")):
        (workplace / name).mkdir()
        (workplace / name / "run.json").write_text(json.dumps({"status": status}))
    load = Load([RunSpec(Config(), workplace / name) for name in "abc"], "auto", 1, workplace)
    results = load.failed(RuntimeError("gone"))
    infos = [json.loads((workplace / name / "run.json").read_text()) for name in "ab"]
    assert [result["status"] for result in results] == ["failed"] * 3
    assert all("killed or lost: RuntimeError: gone" in str(result["error"]) for result in results)
    assert [info["status"] for info in infos] == ["failed", "done"] and "gone" in infos[0]["error"]
