"""``fathom show``: one run in the terminal."""

import re

import pytest

from research.records.runs import Run
from research.reporting.tables import format_number


def test_show_prints_the_verdict_and_draws_profile_and_loss(fathom, five_runs):
    name = "outputs/one/model.depth=64,skip=none"
    info = Run(five_runs / name).info
    said = fathom("show", "depth=64")
    assert said.code == 0
    assert "\x1b" not in said.out
    assert name in said.out
    assert info["verdict"]["sentence"] in said.out
    assert format_number(info["final"]["eval_accuracy"]) in said.out
    for title in ("at the first step", "at the last step", "train loss, step 0 to 24"):
        assert title in said.out
    lines_of_charts = [line for line in said.out.splitlines() if re.search("[▁▂▃▄▅▆▇█]", line)]
    assert len(lines_of_charts) == 3 * 8


@pytest.mark.parametrize(
    "word",
    ["two/killed", "killed", "outputs/two/killed", "two/kill"],
    ids=["path", "name", "directory", "part"],
)
def test_show_finds_a_run_by_any_part_of_its_name(fathom, five_runs, word):
    said = fathom("show", word)
    assert said.code == 0
    assert said.out.startswith("outputs/two/killed  running")


def test_show_prefers_the_whole_name(fathom, make_run):
    make_run("a/seed=1")
    make_run("a/seed=10")
    assert fathom("show", "a/seed=1").out.startswith("outputs/a/seed=1 ")


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        (
            "model.depth=2",
            ["fits 2 runs", "one/model.depth=2,skip=none", "one/model.depth=2,skip=identity"],
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
    said = fathom("show", "new")
    assert said.code == 0
    assert "running" in said.out
    assert "Traceback" not in said.err
