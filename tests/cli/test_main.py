import json
import math
import re
import shutil

import pytest
import yaml

from research.cli import main as cli
from research.records.runs import Run
from research.reporting.tables import bar_chart, format_number, format_ratio

STATES = {  # study/run: the settings and the end of a run that differ from the finished one
    "one/model.depth=2,skip=none": ({}, {}),
    "one/model.depth=2,skip=identity": ({"skip.kind": "identity"}, {}),
    "one/model.depth=64,skip=none": (
        {"model.depth": 64},
        {"verdict": {"kind": "vanishing", "first_layer": 40}},
    ),
    "two/optimizer.learning_rate=1e30": (
        {"optimizer.learning_rate": 1e30},
        {"status": "diverged", "final": {}},
    ),
    "two/killed": (
        {"seed": 1},
        {"status": "running", "final": None, "verdict": None, "steps": None},
    ),
}


def place(finished, directory, settings, state):
    """A run like the finished one but for its settings and its end."""
    shutil.copytree(finished, directory)
    config = yaml.safe_load((directory / ".hydra" / "config.yaml").read_text())
    for path, value in settings.items():
        *groups, name = path.split(".")
        node = config
        for group in groups:
            node = node[group]
        node[name] = value
    (directory / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    info = json.loads((directory / "run.json").read_text())
    merged = {
        key: info[key] | value if isinstance(value, dict) and value else value
        for key, value in (info | state).items()
    }
    merged = {key: value for key, value in merged.items() if value is not None}
    (directory / "run.json").write_text(json.dumps(merged))


@pytest.fixture
def several(finished, workplace):
    for name, (settings, state) in STATES.items():
        place(finished[0], workplace / "outputs" / name, settings, state)
    return workplace


def column(out, name):
    """The words of one column of a table."""
    lines = out.splitlines()
    start = lines[0].index(name)
    return [line[start:].split("  ")[0].split(" ")[0] for line in lines[1:]]


def test_help_names_every_command_and_every_command_has_help(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(["--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0 and not [name for name in cli.COMMANDS if name not in out]
    for name in set(cli.COMMANDS) - {"train"}:
        with pytest.raises(SystemExit) as ended:
            cli.run([name, "--help"])
        assert ended.value.code == 0 and f"usage: fathom {name}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["trian"], ["--nope"]])
def test_a_command_that_does_not_exist_ends_with_2(fathom, words):
    said = fathom(*words)
    assert said.code == 2 and "usage: fathom" in said.err and "Traceback" not in said.err


def test_help_of_train_says_what_can_be_set(fathom, workplace):
    said = fathom("train", "--help")
    assert said.code == 0 and "skip" in said.out and "inv_sqrt_depth" in said.out
    assert not list(workplace.iterdir())


def test_the_table_of_all_runs_reads_well_in_a_pipe(fathom, several):
    said = fathom("runs")
    lines = said.out.splitlines()
    assert said.code == 0 and len(lines) == 1 + len(STATES)
    assert "\x1b" not in said.out and "…" not in said.out and max(map(len, lines)) <= 150
    assert {"study", "depth", "skip", "seed", "status"} <= set(
        lines[0].split()
    ) and "width" not in lines[0]
    assert sorted(column(said.out, "status")) == ["diverged", "done", "done", "done", "running"]
    (vanishing,) = [line for line in lines if "vanishing" in line]
    assert "vanishing from layer 40" in vanishing


@pytest.mark.parametrize(
    ("filters", "kept"),
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
def test_filters_keep_the_runs_that_fit_them_all(fathom, several, filters, kept):
    said = fathom("runs", *filters)
    assert said.code == 0, said.err
    assert len(said.out.splitlines()) == 1 + kept, said.out


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
def test_a_filter_that_keeps_nothing_is_one_line(fathom, several, filters, parts):
    said = fathom("runs", *filters)
    assert said.code == 2 and said.out == "" and said.err.count("\n") == 1
    assert not [part for part in parts if part not in said.err], said.err


MANY = {
    "skip.kind": "scaled",
    "norm.kind": "batch",
    "norm.placement": "branch",
    "activation.kind": "softsign",
}
MANY |= {
    "init.kind": "glorot_uniform",
    "optimizer.kind": "adamw",
    "optimizer.schedule": "warmup_cosine",
}
MANY |= {
    "precision.kind": "mixed_bfloat16",
    "train.batch_size": 8,
    "init.gain": 0.123456,
    "measure.every": 10,
}


def test_a_table_of_runs_that_differ_in_much_keeps_every_value_whole(fathom, finished, workplace):
    place(finished[0], workplace / "outputs" / "a" / "one", {}, {})
    place(
        finished[0],
        workplace / "outputs" / "a" / "two",
        MANY,
        {"verdict": {"kind": "vanishing", "first_layer": 40}},
    )
    said = fathom("runs")
    assert not [value for value in MANY.values() if str(value) not in said.out], said.out
    assert "vanishing from layer 40" in said.out and "…" not in said.out, said.out
    assert len(said.out.splitlines()) == 3, said.out


def test_a_column_bears_the_name_that_a_filter_takes(fathom, finished, workplace):
    for name in ("digits", "noise"):
        place(finished[0], workplace / "outputs" / "a" / name, {"data.name": name}, {})
    assert fathom("runs").out.splitlines()[0].split()[0] == "data"


def test_a_setting_that_an_earlier_version_did_not_know_has_its_default(
    fathom, finished, workplace
):
    for name, heads in (("one", None), ("two", 2)):
        directory = workplace / "outputs" / "study" / name
        place(
            finished[0], directory, {"model.heads": heads, "train.steps": None if heads else 25}, {}
        )
    file = workplace / "outputs" / "study" / "one" / ".hydra" / "config.yaml"
    file.write_text(
        "".join(line for line in file.read_text().splitlines(True) if "heads" not in line)
    )
    out = fathom("runs").out
    assert column(out, "heads") == ["4", "2"] and column(out, "train.steps") == ["25", "–"]
    assert "None" not in out


def test_a_single_run_is_named(fathom, finished, workplace):
    place(finished[0], workplace / "outputs" / "a" / "only", {}, {})
    assert fathom("runs").out.splitlines()[1].split()[0] == "only"


def test_a_reader_that_has_seen_enough_is_no_error(several, process):
    ended = process("-c", "from research.cli.main import main; main()", "runs")
    ended.stdout.close()
    assert ended.wait() == 0 and ended.stderr.read() == ""
    ended.stderr.close()


def test_show_says_the_verdict_and_draws_profile_and_loss(fathom, several):
    said = fathom("show", "depth=64")
    run = Run(several / "outputs" / "one" / "model.depth=64,skip=none")
    assert said.code == 0 and "\x1b" not in said.out
    assert (
        run.info["verdict"]["sentence"] in said.out
        and "outputs/one/model.depth=64,skip=none" in said.out
    )
    assert [
        text in said.out
        for text in ("at the first step", "at the last step", "train loss, step 0 to 24")
    ] == [True] * 3
    charts = [line for line in said.out.splitlines() if re.search("[▁▂▃▄▅▆▇█]", line)]
    assert len(charts) == 3 * 8
    assert format_number(run.info["final"]["eval_accuracy"]) in said.out


@pytest.mark.parametrize(
    "word",
    ["two/killed", "killed", "outputs/two/killed", "two/kill"],
    ids=["path", "name", "directory", "part"],
)
def test_show_finds_a_run_by_any_part_of_its_name(fathom, several, word):
    said = fathom("show", word)
    assert said.code == 0 and said.out.splitlines()[0].startswith("outputs/two/killed  running")


def test_show_prefers_the_whole_name(fathom, finished, workplace):
    for name in ("seed=1", "seed=10"):
        place(finished[0], workplace / "outputs" / "a" / name, {}, {})
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
def test_show_of_none_or_several_is_one_line(fathom, several, word, parts):
    said = fathom("show", word)
    assert said.code == 2 and said.out == "" and said.err.count("\n") == 1
    assert not [part for part in parts if part not in said.err], said.err


def test_show_of_a_run_that_measured_nothing(fathom, finished, workplace):
    place(finished[0], workplace / "outputs" / "a" / "off", {}, {"verdict": None})
    (workplace / "outputs" / "a" / "off" / "profiles.parquet").unlink()
    said = fathom("show", "off")
    assert (
        said.code == 0 and "measured nothing" in said.out and "train loss, step 0 to 24" in said.out
    )


def test_show_of_a_run_that_has_only_started(fathom, finished, workplace):
    place(
        finished[0],
        workplace / "outputs" / "a" / "new",
        {},
        {"status": "running", "final": None, "verdict": None},
    )
    for table in ("metrics", "profiles"):
        (workplace / "outputs" / "a" / "new" / f"{table}.parquet").unlink()
    said = fathom("show", "new")
    assert said.code == 0 and "running" in said.out and "Traceback" not in said.err


@pytest.mark.parametrize("count", [1, 2, 79, 80, 81, 1000])
def test_bars_fit_the_terminal_and_name_their_ends(count):
    lines = bar_chart([float(n) for n in range(count)])
    assert len(lines) == 8 and max(len(line.rstrip()) for line in lines) <= 100
    assert lines[0].split()[-1].replace("e+02", "") and lines[-1].endswith("  0")
    assert lines[-1][0] in "▁█"


def test_bars_leave_a_gap_where_there_is_no_number():
    lines = bar_chart([1.0, math.nan, 2.0, -math.inf, 3.0])
    assert (
        all(line[1] == line[3] == " " for line in lines)
        and lines[0].endswith("  3")
        and lines[-1].endswith("  1")
    )
    assert bar_chart([math.nan, math.inf]) == [] == bar_chart([])


def test_bars_of_one_value_stand_equally_high():
    for line in bar_chart([2.0, 2.0, 2.0]):
        assert len(set(line[:3])) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (math.nan, "–"), (0.123456, "0.123"), (1e-30, "1e-30"), (12, "12")],
)
def test_numbers_are_short_and_a_dash_stands_for_none(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("log10", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (-math.inf, "0"),
        (-400.0, "1e-400"),
        (500.2, "1e+500"),
        (0.0, "1"),
        (-1.0, "0.1"),
    ],
)
def test_ratios_also_where_they_overflow(log10, text):
    assert format_ratio(log10) == text


def test_settings_may_stand_behind_hydras_options(fathom, workplace):
    said = fathom("train", "model.depth=3", "--cfg", "job", "skip=identity")
    assert (
        said.code == 0 and "depth: 3" in said.out and "kind: identity" in said.out and not said.err
    )
