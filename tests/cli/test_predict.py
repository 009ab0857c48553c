"""``fathom predict``: one run, a sweep, JSON, and mistakes in one line."""

import json

import pytest

SMALL = ["model.width=8", "train.batch_size=16", "data.limit=64", "train.steps=20"]


@pytest.mark.slow
def test_one_run_is_a_report_and_a_sweep_is_a_table(fathom):
    depths = ["-m", "model.depth=2,24", "activation=sigmoid", "init=glorot", "seed=3"]

    table = fathom("predict", *SMALL, *depths)
    listed = fathom("predict", *SMALL, *depths, "--steps=5", "--json")

    assert table.code == 0, table.err
    shallow, deep = table.out.splitlines()[1:]
    assert shallow.split()[0] == "2"
    assert deep.split()[0] == "24"
    first, second = json.loads(listed.out)
    assert first["settings"]["model.depth"] == 2
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
