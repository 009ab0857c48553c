"""``fathom runs``: which runs the table has, and what it says of them."""

import pytest


def column(out, name):
    """The words of one column of a table."""
    header, *lines = out.splitlines()
    start = header.index(name)
    words = []
    for line in lines:
        cell, _, _ = line[start:].partition("  ")
        word, _, _ = cell.partition(" ")
        words.append(word)
    return words


def test_the_table_of_all_runs_is_readable_in_a_pipe(fathom, five_runs):
    said = fathom("runs")
    assert said.code == 0
    lines = said.out.splitlines()
    assert len(lines) == 6
    for line in lines:
        assert len(line) <= 150
        assert "\x1b" not in line
        assert "…" not in line
    columns = lines[0].split()
    assert {"study", "depth", "skip", "seed", "status"} <= set(columns)
    assert "width" not in lines[0]
    assert sorted(column(said.out, "status")) == ["diverged", "done", "done", "done", "running"]
    (vanishing,) = [line for line in lines if "vanishing" in line]
    assert "vanishing from layer 40" in vanishing


@pytest.mark.parametrize(
    ("filters", "num_matches"),
    [
        (["skip=none", "model.depth=2", "seed=0"], 2),
        (["skip=identity"], 1),
        (["skip.kind=identity"], 1),
        (["data=digits"], 5),
        (["status=diverged"], 1),
        (["verdict=vanishing"], 1),
        (["one/"], 3),
        (["one/", "model.depth=2"], 2),
        (["identity"], 1),  # a value in a run's name
        (["e/64"], 1),
        (["optimizer.learning_rate=1e-2", "skip=none", "one/"], 2),
        (["optimizer.learning_rate=0.010", "skip=none", "one/"], 2),
        (["model.bias=true", "one/"], 3),
        (["train.eval_every=null", "one/"], 3),
    ],
    ids=str,
)
def test_the_table_has_the_runs_that_match_every_filter(fathom, five_runs, filters, num_matches):
    said = fathom("runs", *filters)
    assert said.code == 0, said.err
    assert len(said.out.splitlines()) == 1 + num_matches, said.out


@pytest.mark.parametrize(
    ("filters", "parts"),
    [
        (["skip=rezero"], ["none of the 5 runs", "skip=rezero"]),
        (["depth"], ["none of the 5 runs", "fits depth; depth is a setting: model.depth=VALUE"]),
        (["one/", "skip"], ["fits one/ skip; skip is a setting: skip=VALUE"]),
        (["model.depth"], ["; model.depth is a setting: model.depth=VALUE"]),
        (["nix"], ["fits nix\n"]),
        (["skp=none"], ["skp", "did you mean skip"]),
        (["model.dpeth=2"], ["model.dpeth", "did you mean model.depth?"]),
    ],
    ids=str,
)
def test_filters_that_no_run_matches_are_one_line(fathom, five_runs, filters, parts):
    said = fathom("runs", *filters)
    assert said.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    for part in parts:
        assert part in said.err


MANY_SETTINGS = {
    "skip.kind": "scaled",
    "norm.kind": "batch",
    "norm.placement": "branch",
    "activation.kind": "softsign",
    "init.kind": "glorot_uniform",
    "optimizer.kind": "adamw",
    "optimizer.schedule": "warmup_cosine",
    "precision.kind": "mixed_bfloat16",
    "train.batch_size": 8,
    "init.gain": 0.123456,
    "measure.every": 10,
}


def test_a_table_of_runs_that_differ_in_much_shows_every_value_whole(fathom, make_run):
    make_run("a/one")
    make_run("a/two", MANY_SETTINGS, {"verdict": {"kind": "vanishing", "first_layer": 40}})
    said = fathom("runs")
    for value in MANY_SETTINGS.values():
        assert str(value) in said.out
    assert "vanishing from layer 40" in said.out
    assert "…" not in said.out
    assert len(said.out.splitlines()) == 3


def test_a_column_has_the_name_that_a_filter_takes(fathom, make_run):
    make_run("a/digits", {"data.name": "digits"})
    make_run("a/noise", {"data.name": "noise"})
    first_column = fathom("runs").out.split()[0]
    assert first_column == "data"


def test_a_setting_that_an_earlier_version_did_not_have_is_shown_with_its_default(fathom, make_run):
    older = make_run("study/one", {"model.bias": None, "train.steps": 25})
    make_run("study/two", {"model.bias": False, "train.steps": None})
    config = older / ".hydra" / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if "bias" not in line))
    out = fathom("runs").out
    assert column(out, "bias") == ["True", "False"]
    assert column(out, "train.steps") == ["25", "–"]
    assert "None" not in out


def test_a_single_run_is_named(fathom, make_run):
    make_run("a/only")
    _, line = fathom("runs").out.splitlines()
    assert line.split()[0] == "only"
