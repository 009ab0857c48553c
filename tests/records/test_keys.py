"""How many keys the runs of a W&B project have, whatever they are and measure."""

import numpy as np
import pytest

from research.diagnosis.steps import judge_steps
from research.gauges.table import DIAGNOSTICS, EXPONENT_GAUGES, GAUGES, METRICS
from research.records.trackers.history import History

DEPTHS = (1, 2, 5, 16, 17, 50, 64, 150, 1000)
WANDB_KEYS = {"_step", "_runtime", "_timestamp"}
SUMMARY_KEYS = {"figure", "claims"}  # of an experiment
FINDING = {"kind": "vanishing", "severity": "severe", "first_step": 0, "last_step": None}
VERDICT = {"kind": "vanishing", "findings": [FINDING]}


def keys_of_a_run(depth):
    """Every key of a run that measures everything that the table declares."""
    step = np.arange(2)
    metrics = {"step": step}
    for metric in METRICS:
        metrics[metric.name] = np.ones(2)
    profiles = {"step": step}
    for gauge in GAUGES:
        profiles[gauge.name] = np.ones((2, gauge.length(depth)))
    diagnostics = {}
    for diagnostic in (*EXPONENT_GAUGES, *DIAGNOSTICS):
        diagnostics[diagnostic.name] = np.ones(() if diagnostic.is_number else depth)
    history = History({}, judge_steps)
    rows = history.add(metrics, profiles, {1: diagnostics})
    rows.append(history.draw_profiles("a run", {"verdict": VERDICT}))
    return set().union(*rows)


def keys_of_every_run():
    """The keys of the runs of all depths."""
    keys = WANDB_KEYS | SUMMARY_KEYS
    for depth in DEPTHS:
        keys |= keys_of_a_run(depth)
    return keys


def test_a_project_has_at_most_100_keys_whatever_its_runs_are_and_measure():
    keys = keys_of_every_run()

    assert len(keys) <= 100
    assert {"train/loss", "verdict/kind", "verdict/findings", "profile/depth"} <= keys
    assert {"grad_norm_layers/depth_000", "inspect/sharpness", "grad_lost/max"} <= keys


RUNS = {
    "mlp": ["skip=identity", "model.depth=3,24"],
    "rnn": ["model=rnn", "model.depth=4"],
    "cnn": ["model=cnn", "model.depth=3"],
    "resnet_cifar": ["model=resnet_cifar", "model.depth=8"],
    "linear": ["model=linear"],
    "transformer": ["model=transformer", "data=python_docs", "model.depth=2"],
    "norms": ["measure=norms"],
    "off": ["measure=off"],
}

INSPECTED = {  # what is measured on an interval and tracked, where the model has it
    "mlp": ["measure.inspect=[sharpness,gradient_correlation,probes,coordinate_change]"],
    "rnn": ["measure.inspect=[sharpness]"],
    "cnn": ["measure.inspect=[sharpness,gradient_correlation,probes,representations]"],
    "transformer": ["measure.inspect=[tokens,gradient_correlation,coordinate_change]"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_runs_of_every_model_and_measurement_have_no_other_keys(
    fathom, workplace, wandb_records, name
):
    words = ["train", "-m", "name=keys", "train.steps=2", "train.batch_size=8", "data.limit=64"]
    words += ["measure=full", *INSPECTED.get(name, []), *RUNS[name]]

    code, _, err = fathom(*words)

    assert code == 0, err
    keys = set()
    for folder in workplace.glob("outputs/wandb/offline-run-*"):
        for record in wandb_records(folder):
            if record["type"] == "history":
                keys |= {key.partition(".")[0] for key in record["history"]["item"]}
    assert "train/loss" in keys
    assert keys <= keys_of_every_run()
