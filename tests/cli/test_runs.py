"""``fathom runs``: which runs the table has, and what it says of them."""

import json
import sys

import pytest
from rich.text import Text

from research.records.runs import find_runs
from research.reporting.tables import print_runs


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
    assert sorted(column(said.out, "status")) == ["diverged", "done", "done", "done", "interrupted"]
    (vanishing,) = [line for line in lines if "vanishing" in line]
    assert "vanishing from layer 40" in vanishing


def test_a_run_that_was_killed_has_the_steps_that_it_recorded(fathom, five_runs):
    header, line = fathom("runs", "status=interrupted").out.splitlines()
    assert line.split()[header.split().index("steps")] == "25"
    assert fathom("show", "two/killed").out.startswith("outputs/two/killed  interrupted  25 steps")
    (run,) = json.loads(fathom("runs", "status=interrupted", "--json").out)
    assert run["numbers"]["steps"] == 25


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
        (["skip=none,identity", "one/"], 3),
        (["skip=identity,rezero"], 1),
        (["skip!=none"], 1),
        (["skip!=none,identity"], 0),
        (["model.depth>30"], 1),
        (["model.depth==64"], 1),
        (["model.depth > 30"], 1),
        (["model.depth>=2"], 5),
        (["model.depth<64"], 4),
        (["model.depth<=1e1"], 4),
        (["depth>30"], 1),
        (["optimizer.learning_rate>1e29"], 1),
        (["status=interrupted,diverged"], 2),
        (["steps>=25"], 5),  # the killed one has recorded them, too
        (["eval_loss<1e9", "one/"], 3),
        (["skip.branch_scale=null"], 5),
        (["skip.branch_scale>0"], 0),
        (["measure.inspect=[]"], 5),
        (["last"], 1),
    ],
    ids=str,
)
def test_the_table_has_the_runs_that_match_every_filter(fathom, five_runs, filters, num_matches):
    said = fathom("runs", *filters)
    assert said.code == (0 if num_matches else 2), said.err
    expected_lines = 1 + num_matches if num_matches else 0
    assert len(said.out.splitlines()) == expected_lines, said.out


@pytest.mark.parametrize(
    ("filters", "parts"),
    [
        (["skip=rezero"], ["none of the 5 runs", "skip=rezero"]),
        (["depth"], ["none of the 5 runs", "fits depth; depth is a setting: model.depth=VALUE"]),
        (["one/", "skip"], ["fits one/ skip; skip is a setting: skip=VALUE"]),
        (["model.depth"], ["; model.depth is a setting: model.depth=VALUE"]),
        (["nix"], ["fits nix\n"]),
        (["one", "two"], ["; each word alone fits some, but a run must fit all of them"]),
        (["depth=2,skip=none,seed=7"], ["did you mean the filters depth=2 skip=none seed=7?"]),
        (["skp=none"], ["skp", "did you mean skip"]),
        (["model.dpeth=2"], ["model.dpeth", "did you mean model.depth?"]),
        (["model.depth>"], ["model.depth> must compare with a number, got nothing"]),
        (["model.depth=>30"], ["model.depth=>30 compares with >=: write model.depth>=30"]),
        (["skip>none"], ["skip>none must compare with a number, got none"]),
        (["skip=residul"], ["skip must be compared with none, identity", "did you mean identity?"]),
        (["skip=none,identiy"], ["got identiy; did you mean identity?"]),
        (["skip!="], ["skip must be compared with none, identity", "got an empty value"]),
        (["status=don"], ["status must be compared with running, done", "did you mean done?"]),
        (["verdict=vanishin"], ["verdict must be compared with", "did you mean vanishing?"]),
        (["seed=0,zero"], ["seed must be compared with numbers between commas", "got 0,zero"]),
        (["seed=0", "seed=1"], ["fits seed=0 seed=1; seed=0,1 fits runs with either"]),
        (["+skip=none"], ["+skip=none is no filter", "did you mean skip=none?"]),
        (["every=3"], ["every is the name of several settings", "measure.every"]),
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


def print_at_width(runs, width, monkeypatch, capsys):
    """The lines that a terminal of some width gets."""
    monkeypatch.setattr(sys.stdout, "isatty", answer_yes)
    monkeypatch.setenv("COLUMNS", str(width))
    print_runs(runs)
    return Text.from_ansi(capsys.readouterr().out).plain.splitlines()


def answer_yes():
    return True


@pytest.mark.parametrize("width", [20, 40, 64, 80, 100, 120])
def test_a_narrow_terminal_gets_whole_settings_and_fewer_results(
    make_run, workplace, monkeypatch, capsys, width
):
    make_run("a/one", {"seed": 0, "skip.kind": "none", "model.depth": 4})
    make_run("a/two", {"seed": 1, "skip.kind": "inv_sqrt_depth", "model.depth": 50})
    runs = find_runs(workplace / "outputs")
    header, *rows, last = print_at_width(runs, width, monkeypatch, capsys)
    if width == 120:
        assert "no room" not in last
        return
    assert last.startswith("no room for ")
    assert "first/last" in last
    assert header.startswith("depth seed skip")
    assert rows[1].startswith("50    1    inv_sqrt_depth")
    assert ("status" in header) == (width >= 40)
    for line in (header, *rows):
        assert "…" not in line
        assert len(line) <= max(width, len("depth seed inv_sqrt_depth"))


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
    assert column(out, "bias") == ["False", "True"]
    assert column(out, "train.steps") == ["–", "25"]
    assert "None" not in out


def test_a_setting_that_the_option_of_a_run_does_not_have_is_a_dash(fathom, make_run):
    make_run("study/momentum", {"optimizer.kind": "momentum", "optimizer.momentum": 0.5})
    adam = make_run("study/adam", {"optimizer.kind": "adam"})
    config = adam / ".hydra" / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if "momentum:" not in line))
    header, *lines = fathom("runs").out.splitlines()
    names = header.split()
    rows = {line.split()[names.index("optimizer")]: line.split() for line in lines}
    assert rows["momentum"][names.index("momentum")] == "0.5"
    assert rows["adam"][names.index("momentum")] == "–"


def test_a_single_run_is_named(fathom, make_run):
    make_run("a/only")
    _, line = fathom("runs").out.splitlines()
    assert line.split()[0] == "only"


def test_runs_are_in_the_order_of_their_columns(fathom, make_run):
    for number, depth in enumerate((100, 9, 20)):
        make_run(f"a/{number}", {"model.depth": depth})
    make_run("a/3", {"model.depth": 9, "skip.kind": "identity"})
    make_run("a/4", {"model.depth": 20, "skip.kind": "identity"})
    out = fathom("runs").out
    assert out.split()[:2] == ["skip", "depth"]
    assert column(out, "skip") == ["none", "none", "none", "identity", "identity"]
    assert column(out, "depth") == ["9", "20", "100", "9", "20"]


DAMAGES = {
    "binary": b"\x89PNG\r\n\xff\x00",
    "number": b"3",
    "list": b"[1, 2]",
    "null": b"null",
    "empty": b"",
    "half": b'{"status": "done", "fin',
    "nested": b"[" * 100_000,
    "final": b'{"status": "done", "final": 3}',
    "final list": b'{"status": "done", "final": {"train_loss": [1]}}',
    "status": b'{"status": ["done"]}',
    "steps": b'{"status": "done", "steps": "many"}',
    "seconds": b'{"status": "done", "seconds": {"train": "long"}}',
    "verdict": b'{"status": "done", "verdict": "healthy"}',
    "kind": b'{"status": "done", "verdict": {"kind": 3}}',
    "initial": b'{"status": "done", "verdict": {"kind": "dead", "initial": []}}',
    "ratio": b'{"status": "done", "verdict": {"log10_ratio": "1"}}',
    "data": b'{"status": "done", "data": []}',
    "counts": b'{"status": "done", "data": {"class_counts": ["a"]}}',
    "huge": b'{"status": "done", "steps": 1' + 4000 * b"0" + b"}",
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("command", ["runs", "show"])
def test_a_damaged_record_does_not_hide_the_others(fathom, make_run, content, command):
    make_run("a/whole")
    damaged = make_run("a/broken")
    (damaged / "run.json").write_bytes(content)
    words = ["whole"] if command == "show" else []
    said = fathom(command, *words)
    assert said.code == 0, said.err
    assert "whole" in said.out
    assert "broken" not in said.out
    assert said.err.count("\n") == 1
    assert said.err.startswith("fathom: left out: outputs/a/broken/run.json is damaged: ")


COMMANDS = [
    "runs",
    "runs nothing",
    "runs --json",
    "show last",
    "table",
    "report",
    "rm a",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_only_record_is_said_to_be_damaged_once(fathom, make_run, command):
    damaged = make_run("a/broken")
    (damaged / "run.json").write_text("half")
    said = fathom(*command.split())
    assert said.code == 2
    left_out, problem = said.err.splitlines()
    assert left_out.startswith("fathom: left out: outputs/a/broken/run.json is damaged: ")
    assert problem.startswith("fathom: no run under ")
    assert problem.endswith("outputs can be read")


def test_a_word_that_names_damaged_records_alone_says_nothing_of_the_others(fathom, make_run):
    make_run("a/whole")
    for name in ("first", "second"):
        (make_run(f"b/{name}") / "run.json").write_text("half")

    said = fathom("runs", "b/first")
    assert said.code == 2
    assert said.err.startswith("fathom: outputs/b/first/run.json is damaged: ")
    assert said.err.count("\n") == 1

    said = fathom("runs", "b")
    assert said.code == 2
    assert said.err.endswith("/outputs whose path fits b can be read\n")
    assert said.err.count("\n") == 3


@pytest.mark.parametrize("words", ["whole other", "b skip=none", "b b"])
def test_a_comparison_names_a_damaged_record_once(fathom, make_run, words):
    make_run("b/whole")
    make_run("b/other")
    damaged = make_run("b/broken")
    (damaged / "run.json").write_text("half")
    said = fathom("compare", *words.split())
    assert said.err.count("left out") == 1


CONFIGS = [None, b"", b"3", b"a: [", b"\xff\xfe", b"a: &a {b: *a}", b"? {a: b}\n: c"]


@pytest.mark.parametrize("content", CONFIGS, ids=str)
def test_a_damaged_configuration_does_not_hide_the_others(fathom, make_run, content):
    make_run("a/whole")
    config = make_run("a/broken") / ".hydra" / "config.yaml"
    if content is None:
        config.unlink()
    else:
        config.write_bytes(content)
    said = fathom("runs")
    assert said.code == 0, said.err
    assert len(said.out.splitlines()) == 2
    assert said.err.count("\n") == 1
    assert "outputs/a/broken/.hydra/config.yaml" in said.err


@pytest.mark.parametrize("content", [b"\xff\x00", b'{"status": "done", "final": 3}'])
def test_showing_a_damaged_record_is_one_line(fathom, make_run, content):
    damaged = make_run("a/broken")
    (damaged / "run.json").write_bytes(content)
    said = fathom("show", "outputs/a/broken")
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("fathom: outputs/a/broken/run.json is damaged: ")
    assert said.err.count("\n") == 1


def test_text_in_a_record_is_no_markup(fathom, make_run):
    make_run("a/[red]x", {"train.steps": 7}, {"status": "[/bold]"})
    make_run("a/other")
    said = fathom("runs")
    assert said.code == 0, said.err
    assert "[/bold]" in said.out


@pytest.mark.slow
def test_a_setting_that_was_computed_from_others_is_found_by_its_value(fathom, trained):
    run, _ = trained("seed=${model.width}")
    assert run.config["seed"] == 8
    assert fathom("runs", "seed=8").code == 0


@pytest.mark.parametrize("prefix", ["", "outputs/", "./outputs/", "{absolute}/outputs/"])
@pytest.mark.parametrize("end", ["", "/"])
@pytest.mark.parametrize("command", [["runs"], ["table", "--value", "steps"]])
def test_a_folder_may_be_written_in_every_way(fathom, five_runs, command, prefix, end):
    place = prefix.format(absolute=five_runs)

    said = fathom(*command, f"{place}one{end}")

    assert said.code == 0, said.err
    assert said.out == fathom(*command, "one").out


@pytest.mark.parametrize("command", ["runs", "show", "rm", "plot"])
@pytest.mark.parametrize(("word", "meant"), [("skpi=none", "skip"), ("oen", "one")])
def test_a_typo_leads_to_the_nearest_name(fathom, five_runs, command, word, meant):
    said = fathom(command, word)
    assert said.code == 2
    assert said.err.endswith(f"; did you mean {meant}?\n")
