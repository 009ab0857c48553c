"""How runs end before their time: divergence, interruption, defects; and what is written of them."""

import math

import numpy as np
import pytest

from research.records.record import RunRecord
from research.records.runs import Run
from research.runner.run_writer import first_bad_layer


def only_run(place):
    (file,) = place.glob("outputs/*/*/run.json")
    return Run(file.parent)


def test_a_diverging_run_names_step_and_layer(trained):
    run, said = trained("optimizer.learning_rate=1e30", code=1)
    verdict = run.info["verdict"]
    assert run.info["status"] == verdict["kind"] == "diverged"
    bad = verdict["since_step"]
    assert bad >= 1 and 0 <= verdict["first_layer"] <= 2
    assert run.info["steps"] == bad + 1 and run.metrics["step"].tolist() == list(range(bad + 1))
    assert np.isfinite(run.metrics["train_loss"][:bad]).all()
    profiles = run.profiles
    assert not all(
        np.isfinite(profiles[name][bad]).all()
        for name in ("signal_grad", "grad_norm", "activation_rms")
    )
    assert (
        f"step {bad}" in said.out
        and f"layer {verdict['first_layer']}" in said.out
        and "1e+30" in said.out
    )
    assert "nan" not in said.out
    assert verdict["initial"]["kind"] in ("healthy", "vanishing", "exploding")


def test_a_run_that_measures_nothing_diverges_too(trained):
    run, said = trained("measure=off", "optimizer.learning_rate=1e30", code=1)
    assert run.info["status"] == "diverged" and run.info["verdict"]["first_layer"] is None
    assert "diverged: the numbers stop being finite at step" in said.out


@pytest.mark.parametrize(
    "setting",
    [
        "init.gain=0",
        "init.gain=1e-25",
        "init.gain=1e-12",
        "init.gain=1e6",
        "optimizer.learning_rate=0",
        "init.sigma_b=9",
    ],
)
def test_the_ends_of_a_range_are_judged_and_not_fallen_over(trained, setting):
    run, said = trained(setting, code=1 if setting == "init.gain=1e6" else 0)
    kinds = {
        "init.gain=0": {"dead"},
        "optimizer.learning_rate=0": {"healthy"},
        "init.gain=1e6": {"diverged"},
    }
    allowed = kinds.get(setting, {"healthy", "vanishing", "dead"})
    assert run.info["verdict"]["kind"] in allowed, run.info["verdict"]["sentence"]
    assert "Warning" not in said.err


def test_divergence_at_a_step_that_is_not_measured_names_no_layer(trained):
    run, _ = trained("model.depth=8", "measure=full", "optimizer.learning_rate=1e4", code=1)
    assert run.info["status"] == "diverged" and run.info["steps"] % 10 != 1
    assert run.info["verdict"]["first_layer"] is None


def test_an_interruption_before_the_first_step_is_said_in_one_line(
    fathom, small, workplace, monkeypatch
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("research.runner.loop.make_program", interrupted)
    said = fathom("train", *small)
    assert said.code == 1 and said.err.count("\n") == 1 and "interrupted" in said.err
    assert only_run(workplace).info["status"] == "interrupted"


def test_a_defect_is_recorded_with_what_was_measured(fathom, small, workplace, monkeypatch):

    add = RunRecord.add

    def breaks(record, metrics, profiles):
        add(record, metrics, profiles)
        if metrics["step"][-1] >= 9:
            raise KeyError("oops")

    monkeypatch.setattr(RunRecord, "add", breaks)
    with pytest.raises(KeyError, match="oops"):
        fathom("train", *small, "tracker=none")
    run = only_run(workplace)
    assert run.info["status"] == "failed" and "oops" in run.info["error"]
    assert len(run.metrics["step"]) >= 9


TERMINATED = """
import os, signal, sys
from research.cli import main as cli
from research.runner.progress import Progress

def step(self, done, total, **values):
    if done >= 30:
        os.kill(os.getpid(), signal.SIGTERM)

Progress.step = step
sys.argv = ["fathom", "train", *sys.argv[1:]]
cli.main()
"""


def test_termination_leaves_a_readable_record_and_a_finished_wandb_run(
    small, workplace, process, wandb_records
):
    ended = process(
        "-c", TERMINATED, *small, "data=noise", "train.steps=100000", "train.eval_every=10"
    )
    assert ended.communicate()[1] == "fathom: interrupted; what was measured is written\n"
    assert ended.returncode == 1
    run = only_run(workplace)
    assert run.info["status"] == "interrupted" and run.info["steps"] >= 30
    assert (
        run.metrics["step"].tolist()
        == run.profiles["step"].tolist()
        == list(range(run.info["steps"]))
    )
    records = wandb_records(workplace / run.info["wandb"])
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert [row["train/step"] for row in rows if "train/loss" in row] == list(
        range(run.info["steps"])
    )
    assert [record["exit"]["exit_code"] for record in records if record["type"] == "exit"] == [1]


NAN = math.nan
INF = math.inf


@pytest.mark.parametrize(
    ("rms", "signal", "norm", "layer"),
    [
        (
            [1, 1, INF, NAN],
            [NAN] * 4,
            [NAN] * 3,
            2,
        ),  # forward numbers break first: the lowest layer
        ([NAN] * 4, [NAN] * 4, [NAN] * 3, 0),
        ([1] * 4, [INF, NAN, 1, 1], [NAN] * 3, 1),  # then backward ones: the highest layer
        ([1] * 4, [1] * 4, [INF, INF, 1], 1),
        ([1] * 4, [1] * 4, [1] * 3, None),
    ],
)
def test_the_first_layer_whose_numbers_break(rms, signal, norm, layer):
    profile = {"activation_rms": rms, "signal_grad": signal, "grad_norm": norm}
    rows = {name: np.array([np.ones(len(values)), values]) for name, values in profile.items()}
    assert first_bad_layer(rows, 1) == layer
    assert first_bad_layer(rows, 0) is None


def test_nothing_measured_no_layer():
    assert first_bad_layer({}, 0) is None
