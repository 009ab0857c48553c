"""``fathom predict``: one run, a sweep, JSON, and mistakes in one line."""

import json

import pytest

from research.runner.preflight import find_ignored
from research.sweeps.planning import plan_runs

SMALL = ["model.width=8", "train.batch_size=16", "data.limit=64", "train.steps=20"]


@pytest.mark.slow
def test_one_run_is_a_report_and_a_sweep_is_a_table(fathom):
    activations = ["-m", "activation=tanh,sigmoid", "model.depth=24", "init=glorot", "seed=3"]

    table = fathom("predict", *SMALL, *activations)
    listed = fathom("predict", *SMALL, *activations, "--steps=5", "--json")

    assert table.code == 0, table.err
    trainable, untrainable = table.out.splitlines()[1:]
    assert trainable.split()[0] == "tanh"
    assert untrainable.split()[0] == "sigmoid"
    first, second = json.loads(listed.out)
    assert first["settings"]["activation.kind"] == "tanh"
    assert first["probability"] > second["probability"]
    assert second["factor_per_layer"] == pytest.approx(second["theory"], rel=0.5)
    assert len(second["trial"]) == 6
    assert second["steps"] == 20
    assert second["ceiling"] > 0
    assert second["lost"]["float32"] < 1e-6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.depht=3"], "model.depht is not a setting; did you mean model.depth?"),
        (
            ["model.depth=2,4"],
            "model.depth=2,4 holds several values, which make a sweep: "
            "fathom predict -m model.depth=2,4",
        ),
        (["--steps=many"], "--steps must be a whole number from 0 to 1000, got many"),
        (["--steps=-1"], "--steps must be a whole number from 0 to 1000, got -1"),
        (["skip=fixup", "norm=layer"], "norm must be none"),
        (["--depth=3"], "--depth=3 is no option of fathom predict"),
    ],
)
def test_mistakes_are_said_in_one_line(fathom, words, message):
    said = fathom("predict", *words)

    assert said.code == 2
    assert said.out == ""
    assert message in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "ignored"),
    [
        (
            ["name=x", "tracker=wandb", "tags=[a]", "diagnose.every=9", "hydra.run.dir=x"],
            ["name", "tracker", "tags", "diagnose.every", "hydra.run.dir"],
        ),
        (["checkpoint={keep:true}", "mesh=single"], ["checkpoint", "mesh"]),
        (["measure=norms", "measure.every=5", "train.eval_every=7"], ["measure", "measure.every"]),
        (
            ["optimizer=adam", "optimizer.schedule=cosine", "optimizer.end_value=0.001"],
            ["optimizer.schedule", "optimizer.end_value"],
        ),
        (["data.eval_split=train"], ["data.eval_split"]),
        (["tracker=none"], ["tracker"]),
        (["measure=full", "checkpoint.keep=false"], ["measure", "checkpoint.keep"]),
        (["seed=3", "optimizer=adam", "init.gain=2", "train.steps=5"], []),
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_settings_that_change_no_prediction_are_found(words, ignored):
    planned = plan_runs(words)[0]

    found = find_ignored(planned.overrides, planned.config)

    assert found[: len(ignored)] == ignored
    assert bool(found) == bool(ignored)


def test_a_prediction_says_what_it_ignores(fathom, monkeypatch):
    monkeypatch.setattr("research.runner.preflight.measure_configs", lambda *_: [])

    said = fathom("predict", "model.depth=2", "name=x", "model.depth=3", "tracker=wandb", "--json")

    assert said.out == "[]\n"
    assert said.err == (
        "fathom: model.depth is given 2 times, and the last one counts: model.depth=3\n"
        "fathom: name and tracker have no effect on fathom predict, which measures the start of "
        "a run and records nothing\n"
    )
