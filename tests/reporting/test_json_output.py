"""``--json``: stable keys, and only numbers that JSON has."""

import json

import numpy as np

from research.reporting.json_output import json_value
from research.reproduce import results
from research.reproduce.claims import claim

from .conftest import write_run

RUN_KEYS = [
    "run",
    "study",
    "id",
    "status",
    "seed",
    "verdict",
    "sentence",
    "numbers",
    "settings",
]


def test_runs_are_a_list_of_objects(fathom, sweep):
    said = fathom("runs", "depth=16", "skip=none", "--json")

    runs = json.loads(said.out)
    first, _, diverged = runs
    assert list(first) == RUN_KEYS
    assert list(diverged) == RUN_KEYS
    assert first["run"] == "outputs/study/depth=16,skip=none,seed=0"
    assert first["study"] == "study"
    assert first["numbers"]["eval_accuracy"] == 0.6
    assert first["settings"]["model.depth"] == 16
    assert diverged["status"] == "diverged"
    assert diverged["numbers"]["eval_accuracy"] is None


def test_show_adds_the_record_and_the_profiles(fathom, sweep):
    said = fathom("show", "depth=4,skip=none,seed=1", "--json")

    (run,) = json.loads(said.out)
    assert list(run) == [*RUN_KEYS, "info", "profiles"]
    assert run["info"]["layers"] == 4
    signal = run["profiles"]["signal_grad"]
    assert signal["steps"] == [0, 1]
    assert len(signal["first"]) == 5
    first = np.array(signal["first"])
    np.testing.assert_allclose(signal["last"], 2 * first)


def test_figure_lists_the_claims_of_each_experiment(fathom, outputs, monkeypatch):
    held = claim(
        "it falls",
        source="a law",
        expected="< 1",
        values=[0.25, 0.75],
        holds=True,
    )

    def write_claims(key, directory, **_):
        directory.mkdir()
        results.write_json(directory / "claims.json", [vars(held)])
        return True

    monkeypatch.setattr(results, "draw_and_test", write_claims)

    said = fathom("figure", "he_init", "--json")

    assert said.code == 0, said.err
    (experiment,) = json.loads(said.out)
    assert list(experiment) == ["experiment", "figure", "all_hold", "claims"]
    assert experiment["figure"] == "outputs/he_init/figure.png"
    assert experiment["all_hold"] is True
    assert experiment["claims"][0]["measured"] == 0.5


def test_numbers_that_are_not_finite_are_null(fathom, outputs):
    write_run(outputs / "a", final={"train_loss": 1.0})
    file = outputs / "a" / "run.json"
    text = file.read_text()
    file.write_text(text.replace('"train_loss": 1.0', '"train_loss": NaN'))

    said = fathom("show", "a", "--json")

    (run,) = json.loads(said.out)
    assert run["info"]["final"]["train_loss"] is None


def test_values_of_numpy_become_those_of_json():
    values = (np.float64(1), np.arange(2))
    others = [np.inf, True, None]

    value = json_value({"a": values, 3: others})

    assert value["a"] == [1.0, [0, 1]]
    assert value["3"] == [None, True, None]
