"""``fathom show``: one run in the terminal."""

import os
import re

import numpy as np
import pytest

from research.records.record import Lock, RunRecord
from research.records.runs import Run
from research.reporting.show import show_run
from research.reporting.tables import bar_chart, format_number

from ..reporting.recorded import record_run
from .conftest import change_info


def test_show_prints_the_verdict_and_draws_profile_and_loss(fathom, five_runs):
    name = "outputs/one/model.depth=64,skip=none"
    run = Run(five_runs / name)
    info = run.info
    first = run.profiles["step"][0]
    last = run.profiles["step"][-1]
    said = fathom("show", "depth=64")
    assert said.code == 0
    assert "\x1b" not in said.out
    assert name in said.out
    assert info["verdict"]["sentence"] in said.out
    assert format_number(info["final"]["eval_accuracy"]) in said.out
    for title in (f"‖² at step {first},", f"‖² at step {last},", "train loss, step 0 to 24"):
        assert title in said.out
    lines_of_charts = [line for line in said.out.splitlines() if re.search("[▁▂▃▄▅▆▇█]", line)]
    assert len(lines_of_charts) == 3 * 8


def test_show_says_the_steps_that_were_measured(five_runs, capsys):
    run = Run(five_runs / "outputs/one/model.depth=64,skip=none")
    run.profiles = {"step": np.array([0, 10]), "signal_grad": np.ones((2, 3))}
    run.metrics = {"step": np.arange(5, 19), "train_loss": np.linspace(2, 1, 14)}
    show_run(run)
    said = capsys.readouterr().out
    assert "log₁₀ ‖∂L/∂h‖² at step 0, " in said
    assert "log₁₀ ‖∂L/∂h‖² at step 10, " in said
    assert "train loss, step 5 to 18" in said


def test_show_prints_the_last_value_of_diagnostics(five_runs, capsys):
    run = Run(five_runs / "outputs/one/model.depth=64,skip=none")
    run.inspections = {
        "step": np.array([0, 50]),
        "sharpness": np.array([1.0, 12.5]),
        "probe_error": np.array([[0.5, 0.5, 0.5], [0.25, 0.125, 0.0625]]),
        "weights": np.zeros((2, 7)),
    }
    show_run(run)
    lines = capsys.readouterr().out.splitlines()
    assert "sharpness at step 50: 12.5" in lines
    assert (
        "probe_error at step 50: 0.25 at the input of layer 0, 0.0625 at the output of layer 1"
        in lines
    )
    assert not any(line.startswith("weights") for line in lines)


@pytest.mark.parametrize(
    "word",
    ["two/killed", "killed", "outputs/two/killed", "two/kill"],
    ids=["path", "name", "directory", "part"],
)
def test_show_finds_a_run_by_any_part_of_its_name(fathom, five_runs, word):
    said = fathom("show", word)
    assert said.code == 0
    assert said.out.startswith("outputs/two/killed  interrupted")


def test_show_prefers_the_whole_name(fathom, make_run):
    make_run("a/seed=1")
    make_run("a/seed=10")
    assert fathom("show", "a/seed=1").out.startswith("outputs/a/seed=1 ")


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        (
            "model.depth=2",
            ["fits 4 runs", "one/model.depth=2,skip=none", "one/model.depth=2,skip=identity"],
        ),
        (
            "one/model.depth=3,skip=none",
            ["there is no run", "did you mean one/model.depth=2,skip=none?"],
        ),
        ("nix", ["there is no run nix"]),
    ],
)
def test_a_name_that_fits_no_run_or_several_is_one_line(fathom, five_runs, word, parts):
    said = fathom("show", word)
    assert said.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    for part in parts:
        assert part in said.err


def test_show_of_a_run_that_measured_nothing(fathom, make_run):
    directory = make_run("a/off", info={"verdict": None})
    (directory / "profiles.parquet").unlink()
    said = fathom("show", "off")
    assert said.code == 0
    assert "measured nothing" in said.out
    assert "train loss, step 0 to 24" in said.out


def test_show_of_a_run_that_has_only_started(fathom, make_run):
    directory = make_run("a/new", info={"status": "running", "final": None, "verdict": None})
    (directory / "metrics.parquet").unlink()
    (directory / "profiles.parquet").unlink()
    lock = Lock(directory)
    said = fathom("show", "new")
    lock.release()
    assert said.code == 0
    assert "running" in said.out
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["last"], "two/killed"),
        (["last", "one/"], "one/model.depth=64,skip=none"),
        (["skip=identity"], "one/model.depth=2,skip=identity"),
        (["model.depth>30"], "one/model.depth=64,skip=none"),
        (["one/", "skip=none", "depth<30"], "one/model.depth=2,skip=none"),
        (["status=interrupted"], "two/killed"),
        (["two", "killed"], "two/killed"),
        (["./outputs/two/killed/"], "two/killed"),
    ],
    ids=str,
)
def test_show_takes_the_filters_of_runs(fathom, five_runs, words, name):
    names = ["one/model.depth=2,skip=none", "one/model.depth=64,skip=none", "two/killed"]
    for day, directory in enumerate(names, start=1):
        change_info(five_runs / "outputs" / directory, {"started": f"2100-01-0{day}T00:00:00"})
    said = fathom("show", *words)
    assert said.code == 0, said.err
    assert said.out.startswith(f"outputs/{name}  ")


def test_the_newest_run_is_the_one_whose_training_began_last(fathom, small, workplace):
    settings = [*small, "train.steps=2", "tracker=none"]
    assert fathom("train", *settings, "name=one").code == 0
    assert fathom("train", *settings, "seed=1", "name=two").code == 0
    assert fathom("train", *settings, "name=one", "tags=[later]").code == 0
    assert fathom("show", "last").out.startswith("outputs/two/")
    assert fathom("show", "last", "tags=later").out.startswith("outputs/one/")


def test_of_records_without_a_time_the_newest_has_the_newest_numbers(fathom, make_run):
    for age, name in enumerate(["old", "new"]):
        directory = make_run(f"a/{name}", info={"started": None})
        os.utime(directory / "metrics.parquet", (10**9 + age, 10**9 + age))
        os.utime(directory / "run.json", (10**9 - age, 10**9 - age))
    assert fathom("show", "last").out.startswith("outputs/a/new  ")


def test_a_run_that_goes_on_has_begun_when_it_went_on(tmp_path):
    directory = record_run(tmp_path / "run", status="running")
    before = Run(directory).start_time
    RunRecord(Lock(directory), dict(Run(directory).info)).release()
    assert Run(directory).start_time > before


@pytest.mark.parametrize("word", ["a", "outputs/a", "outputs/a/"])
def test_a_study_with_one_run_is_that_run(fathom, make_run, word):
    make_run("a/only")
    make_run("b/first")
    make_run("b/second")
    said = fathom("show", word)
    assert said.code == 0, said.err
    assert said.out.startswith("outputs/a/only  ")


def test_a_condition_means_the_same_where_a_folder_is_called_so(fathom, make_run):
    make_run("a/depth=4", {"model.depth": 4})
    make_run("b/depth=4,seed=0", {"model.depth": 4})
    assert fathom("show", "b", "depth=4").out.startswith("outputs/b/depth=4,seed=0 ")
    assert "depth=4 fits 2 runs" in fathom("show", "depth=4").err
    assert fathom("show", "depth=4,seed=0").out.startswith("outputs/b/depth=4,seed=0 ")


def test_a_single_step_is_no_plural(fathom, make_run):
    make_run("b/short", info={"steps": 1})
    assert fathom("show", "short").out.splitlines()[0] == "outputs/b/short  done  1 step"


@pytest.mark.parametrize("command", ["show", "replay", "remedy", "landscape"])
def test_without_runs_a_command_says_how_to_make_one(fathom, workplace, command):
    said = fathom(command, "last")
    assert said.code == 2
    assert said.err.startswith("fathom: there are no runs under ")
    assert said.err.endswith("; fathom train makes one\n")


def test_several_directories_are_shown_one_after_the_other(fathom, make_run):
    make_run("b/first")
    make_run("b/second")
    said = fathom("show", "outputs/b/second", "outputs/b/first")
    assert said.code == 0, said.err
    assert said.out.index("b/second  ") < said.out.index("b/first  ")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["one/", "two/"], ["one/ fits 3 runs: one/model.depth=2"]),
        (["killed", "nonsense"], ["there is no run nonsense"]),
        (["skip=none"], ["fits 4 runs", "last for the newest"]),
        (["one"], ["one fits 3 runs: one/model.depth=2,skip=identity"]),
        (["=2=", "one"], ["=2= is no filter such as skip=none"]),
        (["~skip=none"], ["~skip=none is no filter", "did you mean skip!=none?"]),
        (["lr>0.1"], ["lr is not a setting; did you mean optimizer.learning_rate?"]),
        (["loss<2"], ["loss<2 must compare numbers, got one of cross", "did you mean train_loss?"]),
        (["/"], ["there is no run /"]),
        (["."], ["there is no run ."]),
        (["outputs/"], ["outputs/ fits 5 runs"]),
        (["skp=none"], ["skp is not a setting; did you mean skip?"]),
        (["model.depth>x"], ["model.depth>x must compare with a number, got x"]),
    ],
    ids=str,
)
def test_further_words_must_fit_too(fathom, five_runs, words, parts):
    said = fathom("show", *words)
    assert said.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    for part in parts:
        assert part in said.err


def test_a_profile_is_drawn_over_at_least_one_decade():
    flat = bar_chart([-3.00, -3.01, -3.02], min_span=1.0)
    steep = bar_chart([0.0, -30.0, -65.0], min_span=1.0)
    assert flat[0].split()[-1] == "-3"
    assert flat[-1].split()[-1] == "-4"
    assert steep[-1].split()[-1] == "-65"
    assert flat[0].startswith("███") or flat[0].startswith("█▇▇")
