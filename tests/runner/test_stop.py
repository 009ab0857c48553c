"""Runs that their findings end early, and verdicts on runs that are still trained."""

import json

import numpy as np
import pytest

from research.records.runs import Run
from research.records.trackers.wandb import WandbTracker
from research.runner.group import describe_kinds
from research.runner.judging import VerdictClock
from research.runner.progress import Progress

VANISHING = ["activation=sigmoid", "model.depth=16", "model.width=8"]
STOP = "diagnose.stop=[vanishing]"


def test_a_member_of_a_group_stops_at_a_fixed_step_and_the_others_go_on(fathom, small, workplace):
    settings = ["model.depth=16", "activation=sigmoid,linear", "init=lecun", STOP, "train.steps=40"]
    result = fathom(
        "train", "-m", *small, *settings, "tracker=none", "name=a", "hydra/launcher=grouped"
    )
    assert result.code == 0, result.err

    runs = {run["activation.kind"]: run for run in map(Run, workplace.glob("outputs/a/*"))}

    stopped = runs["sigmoid"]
    assert stopped.status == "stopped"
    assert stopped.info["stopped"] == {"kind": "vanishing", "step": 9}
    assert stopped.info["steps"] == 10
    assert stopped.info["verdict"]["kind"] == "vanishing"
    assert runs["linear"].status == "done"
    assert runs["linear"].info["steps"] == 40
    assert fathom("runs", "status=stopped").out.count("stopped") == 1


@pytest.mark.slow
def test_a_stopped_run_is_the_start_of_the_whole_run(trained):
    whole, _ = trained(*VANISHING, "train.steps=60")
    stopped, result = trained(*VANISHING, "train.steps=60", STOP)
    assert "stopped after step 9, because diagnose.stop has vanishing" in result.out
    np.testing.assert_array_equal(stopped.metrics["train_loss"], whole.metrics["train_loss"][:10])
    assert stopped.info["id"] != whole.info["id"]


def test_a_run_ends_where_its_dashboard_asks_for_it(
    fathom, small, workplace, monkeypatch, quickly_compiled
):
    monkeypatch.setattr(WandbTracker, "wants_stop", lambda *_, **__: True)
    code, out, _ = fathom("train", *small, "train.steps=40", "name=x")
    assert code == 0
    (file,) = workplace.glob("outputs/x/*/run.json")
    info = json.loads(file.read_text())
    assert info["status"] == "stopped"
    assert info["steps"] < 40
    assert info["stopped"] == {"by": "wandb", "step": info["steps"] - 1}
    assert "as wandb asked" in out


@pytest.mark.parametrize(
    ("value", "part"),
    [("[exploded]", "did you mean exploding"), ("[dead,dead]", "each name once")],
)
def test_unknown_kinds_are_refused_in_one_line(fathom, workplace, value, part):
    result = fathom("train", f"diagnose.stop={value}", "tracker=none")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert part in result.err
    assert not list(workplace.iterdir())


@pytest.mark.slow
def test_a_running_run_shows_its_verdict(trained, monkeypatch):
    """The clock is due at every chunk, and run.json is read while the run goes on."""
    seen = []
    step = Progress.step

    def show_and_read(progress, done, total, **values):
        step(progress, done, total, **values)
        seen.append((values.get("note"), [Run(file.parent).info for file in files()]))

    def files():
        from pathlib import Path

        return list(Path("outputs").glob("*/*/run.json"))

    monkeypatch.setattr("research.runner.judging.LARGEST_SHARE_OF_TIME", 1e9)
    monkeypatch.setattr(Progress, "step", show_and_read)

    trained(*VANISHING, "train.steps=60", "diagnose.every=1e-9")

    during = [(note, info) for note, (info,) in seen if info["status"] == "running"]
    assert any(note == "vanishing" for note, _ in during)
    kinds = [info["verdict"]["kind"] for _, info in during if info.get("verdict")]
    assert kinds
    assert set(kinds) == {"vanishing"}


def test_verdicts_on_running_runs_take_at_most_a_hundredth_of_the_time():
    now = [0.0]
    clock = VerdictClock(group_size=10, every=5.0, clock=lambda: now[0])
    spent = 0.0
    while now[0] < 1000:
        now[0] += 0.5
        if clock.is_due:
            with clock.measure():
                now[0] += 0.02
            spent += 10 * 0.02
    assert 0 < spent / now[0] <= 0.0102


def test_a_slow_first_verdict_does_not_put_off_the_next_one():
    now = [10.0]
    clock = VerdictClock(group_size=27, every=5.0, clock=lambda: now[0])
    with clock.measure():
        now[0] += 2.0  # imports
    now[0] += 5.0
    assert clock.is_due


def test_the_cpu_seconds_of_each_verdict_are_reported():
    seconds = []
    clock = VerdictClock(group_size=1, every=5.0, report=seconds.append)
    for _ in range(2):
        with clock.measure():
            sum(range(1000))
    assert len(seconds) == 2
    assert min(seconds) > 0


def test_without_an_interval_no_running_run_is_judged():
    assert not VerdictClock(group_size=1, every=None).is_due


def test_the_progress_counts_verdicts_that_are_not_healthy():
    assert describe_kinds(["healthy"]) == ""
    assert describe_kinds(["dead", "healthy", "dead"]) == "2 dead"


def test_run_json_of_a_stopped_run_is_json(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"status": "stopped", "stopped": {"step": 1}}))
    assert Run(tmp_path).info["stopped"] == {"step": 1}
