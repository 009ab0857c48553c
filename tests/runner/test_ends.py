"""How runs end early: by divergence, an interruption or a defect, and what is written of them."""

import math
from pathlib import Path

import numpy as np
import pytest

from research.diagnosis.observed import EMBEDDING, HEAD, Divergence, find_divergence
from research.records.record import RunRecord
from research.records.runs import Run

from .reading import find_wandb_rows

TRAIN_UNTIL = Path(__file__).parent / "train_until.py"
NAN = math.nan
INF = math.inf


def only_run(place):
    (file,) = place.glob("outputs/*/*/run.json")
    return Run(file.parent)


def test_a_diverging_run_names_step_and_layer(trained):
    run, result = trained("optimizer.learning_rate=1e30", code=1)

    verdict = run.info["verdict"]
    step = verdict["since_step"]
    layer = verdict["first_layer"]
    assert run.info["status"] == verdict["kind"] == "diverged"
    assert step >= 1
    assert 0 <= layer <= 2
    assert run.info["steps"] == step + 1
    assert run.metrics["step"].tolist() == list(range(step + 1))
    assert np.isfinite(run.metrics["train_loss"][:step]).all()
    gauges = ("signal_grad", "grad_norm", "activation_rms")
    assert not all(np.isfinite(run.profiles[name][step]).all() for name in gauges)
    for text in (f"step {step}", f"layer {layer}", "1e+30"):
        assert text in result.out
    assert "nan" not in result.out
    assert verdict["initial"]["kind"] in ("healthy", "vanishing", "exploding")


def test_a_run_that_measures_nothing_diverges_too(trained):
    run, result = trained("measure=off", "optimizer.learning_rate=1e30", code=1)

    assert run.info["status"] == "diverged"
    assert run.info["verdict"]["first_layer"] is None
    assert "Diverged: numbers stop being finite at step" in result.out


@pytest.mark.parametrize(
    ("setting", "kinds"),
    [
        ("init.gain=0", {"dead"}),
        ("init.gain=1e-25", {"healthy", "vanishing", "dead"}),
        ("init.gain=1e-12", {"healthy", "vanishing", "dead"}),
        ("init.gain=1e6", {"diverged"}),
        ("optimizer.learning_rate=0", {"healthy"}),
        ("init.sigma_b=9", {"healthy", "vanishing", "dead"}),
    ],
)
def test_the_ends_of_a_range_are_judged_without_an_error(trained, setting, kinds):
    run, result = trained(setting, code=1 if kinds == {"diverged"} else 0)

    verdict = run.info["verdict"]
    assert verdict["kind"] in kinds, verdict["sentence"]
    assert "Warning" not in result.err


@pytest.mark.slow
def test_divergence_at_a_step_that_is_not_measured_names_no_layer(trained):
    run, _ = trained("model.depth=8", "measure=full", "optimizer.learning_rate=1e4", code=1)

    assert run.info["status"] == "diverged"
    assert run.info["steps"] % 10 != 1
    assert run.info["verdict"]["first_layer"] is None


def test_an_interruption_before_the_first_step_is_reported_in_one_line(
    fathom, small, workplace, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("research.runner.loop.make_program", interrupt)

    result = fathom("train", *small)

    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "interrupted" in result.err
    assert only_run(workplace).info["status"] == "interrupted"


def test_a_defect_is_recorded_with_what_was_measured(fathom, small, workplace, monkeypatch):
    add = RunRecord.add

    def add_and_break(record, metrics, profiles):
        add(record, metrics, profiles)
        if metrics["step"][-1] >= 9:
            raise KeyError("oops")

    monkeypatch.setattr(RunRecord, "add", add_and_break)

    with pytest.raises(KeyError, match="oops"):
        fathom("train", *small, "tracker=none")

    run = only_run(workplace)
    assert run.info["status"] == "failed"
    assert "oops" in run.info["error"]
    assert len(run.metrics["step"]) >= 9


@pytest.mark.slow
def test_termination_leaves_a_readable_record_and_a_finished_wandb_run(
    workplace, process, wandb_records
):
    network = ["model.depth=2", "model.width=8"]
    settings = ["data=noise", "train.steps=100000", "train.eval_every=10"]

    terminated = process(TRAIN_UNTIL, "SIGTERM", 30, "train", *network, *settings)
    _, err = terminated.communicate()

    lines = [line for line in err.splitlines() if ": step " not in line]
    assert lines == ["fathom: interrupted; what was measured is written"]
    assert terminated.returncode == 1
    run = only_run(workplace)
    steps = list(range(run.info["steps"]))
    assert run.info["status"] == "interrupted"
    assert len(steps) >= 30
    assert run.metrics["step"].tolist() == run.profiles["step"].tolist() == steps
    records = wandb_records(workplace / run.info["wandb"])
    assert [row["train/step"] for row in find_wandb_rows(records)] == steps
    codes = [record["exit"]["exit_code"] for record in records if record["type"] == "exit"]
    assert codes == [1]


@pytest.mark.parametrize(
    ("activation_rms", "signal_grad", "grad_norm", "layer", "quantity", "part"),
    [
        # Forward numbers break first, so the lowest layer counts: the one that computes them.
        ([1, 1, INF, NAN], [NAN] * 4, [NAN] * 3, 1, "activation", ""),
        ([NAN] * 4, [NAN] * 4, [NAN] * 3, None, "activation", EMBEDDING),
        # Else backward numbers, so the highest layer counts.
        ([1] * 4, [INF, NAN, 1, 1], [NAN] * 3, 1, "gradient", ""),
        ([1] * 4, [INF, NAN, 1, INF], [NAN] * 3, None, "gradient", HEAD),
        ([1] * 4, [1] * 4, [INF, INF, 1], 1, "parameter gradient", ""),
        ([1] * 4, [1] * 4, [1] * 3, None, "", ""),
    ],
)
def test_the_first_layer_whose_numbers_are_not_finite(
    activation_rms, signal_grad, grad_norm, layer, quantity, part
):
    profile = {
        "activation_rms": np.array(activation_rms),
        "signal_grad": np.array(signal_grad),
        "grad_norm": np.array(grad_norm),
    }

    assert find_divergence(7, profile) == Divergence(7, layer, quantity, part)


def test_without_gauges_there_is_no_such_layer():
    assert find_divergence(7, {}) == Divergence(7)
