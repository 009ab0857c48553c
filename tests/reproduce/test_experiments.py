import json
import os
import shutil
import types
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import yaml

from research.cli import main as cli
from research.cli import train
from research.config import errors
from research.reproduce import experiments as experiment
from research.reproduce.claims import Claim

NAME = "relu_growth"


@pytest.fixture(scope="module")
def wanted():
    return experiment.expected_runs(NAME)


@pytest.fixture
def records(wanted, tmp_path):
    """A folder in which every run of the experiment has ended."""
    for run, settings in wanted.items():
        (tmp_path / NAME / run / ".hydra").mkdir(parents=True)
        (tmp_path / NAME / run / ".hydra" / "config.yaml").write_text(yaml.safe_dump(settings))
        (tmp_path / NAME / run / "run.json").write_text(json.dumps({"status": "done"}))
    return tmp_path / NAME


def changed(path, **settings):
    file = path / ".hydra" / "config.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | settings))


def status(path, status):
    (path / "run.json").write_text(json.dumps({"status": status}))


BROKEN = {
    "gone": (shutil.rmtree, "lacks the run .*: fathom reproduce relu_growth"),
    "unreadable": (lambda run: (run / "run.json").write_text('{"id"'), "lacks the run "),
    "unfinished": (
        lambda run: status(run, "running"),
        "is running, not done: fathom reproduce relu_growth",
    ),
    "failed": (lambda run: status(run, "failed"), "is failed, not done"),
    "changed": (
        lambda run: changed(run, **{"train.steps": 7}),
        "train.steps is 7 there and 1 in the experiment",
    ),
    "unknown": (
        lambda run: shutil.rmtree(run / ".hydra"),
        "does not belong .*its configuration is missing",
    ),
    "stranger": (
        lambda run: shutil.copytree(run, run.parent / "copy"),
        "copy is no run of relu_growth",
    ),
    "swapped": (lambda run: changed(run, seed=99), "seed is 99 there and . in the experiment"),
}


def test_records_of_the_whole_sweep_are_taken(wanted, records):
    assert [run.directory.name for run in experiment.finished_runs(NAME, records)] == list(
        wanted
    ) and len(wanted) == 30


def test_a_record_that_does_not_know_a_newer_setting_has_its_default(records):
    file = next(records.iterdir()) / ".hydra" / "config.yaml"
    older = {
        path: value
        for path, value in yaml.safe_load(file.read_text()).items()
        if path != "data.grid"
    }
    file.write_text(yaml.safe_dump(older | {"name": "another", "tracker.wandb": False}))
    assert len(experiment.finished_runs(NAME, records)) == 30


@pytest.mark.parametrize("name", BROKEN)
def test_a_figure_of_anything_else_is_refused_in_one_line(records, monkeypatch, capsys, name):
    spoil, said = BROKEN[name]
    spoil(sorted(records.iterdir())[3])
    monkeypatch.chdir(records.parent)
    with pytest.raises(ValueError, match=said):
        experiment.finished_runs(NAME, records)
    assert cli.run(["figure", NAME, f"hydra.sweep.dir={records}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (records / "figure.png").exists()


@pytest.mark.parametrize(
    ("trained", "ended", "holds", "code"),
    [
        (0, True, True, 0),
        (0, True, False, 1),
        (1, True, True, 0),  # a run diverged: of a grid of learning rates that is a result
        (1, False, True, 1),  # a run failed
        (2, True, True, 2),  # refused
    ],
)
def test_claims_decide_once_every_run_has_ended(monkeypatch, trained, ended, holds, code):
    def refuse():
        raise errors.UsageError(2)

    def finished(name, directory):
        if not ended:
            raise ValueError(f"{directory} lacks a run of {name}")

    judged = []
    mirrored = []
    monkeypatch.setattr(train, "main", lambda *_: trained if trained < 2 else refuse())
    monkeypatch.setattr(experiment, "finished_runs", finished)
    monkeypatch.setattr(experiment, "draw_and_judge", lambda *of: judged.append(of) or holds)
    monkeypatch.setattr(experiment, "mirror", lambda *of: mirrored.append(of))
    assert cli.run(["reproduce", "relu_growth"]) == code
    assert bool(judged) == bool(mirrored) == (ended and trained < 2)
    assert cli.run(["reproduce", "relu_growth", "tracker=none"]) == code
    assert len(mirrored) == bool(mirrored)


def test_several_experiments_end_with_a_table_of_what_does_not_hold(monkeypatch, workplace, capsys):
    def judge(name, directory, again):
        claims = [
            {
                "statement": "factor a layer",
                "expected": "1 ± 0.1",
                "measured": 1.25,
                "holds": name == "he_init",
            }
        ]
        directory.mkdir(parents=True)
        (directory / "claims.json").write_text(json.dumps(claims))
        return claims[0]["holds"]

    monkeypatch.setattr(train, "main", lambda words, _: "experiment=glorot_init" in words)
    monkeypatch.setattr(experiment, "draw_and_judge", judge)
    assert cli.run(["reproduce", "he_init", "relu_growth", "glorot_init", "tracker=none"]) == 1
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "he_init 1 of 1" in rows and "glorot_init none: runs failed" in rows
    assert "relu_growth 0 of 1 factor a layer (1.25; 1 ± 0.1)" in rows


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["degradatoin"], "no experiment degradatoin; did you mean degradation?"),
        (
            ["degradation", "--scale", "papre"],
            "there is no scale papre; did you mean paper? valid: paper",
        ),
        (
            ["relu_growth", "--scale", "paper"],
            "there is no experiment relu_growth at --scale paper",
        ),
        (["degradation", "--scale", "paper", "seed=1"], "seed=1 would make it another experiment"),
    ],
)
@pytest.mark.parametrize("command", ["reproduce", "figure"])
def test_an_experiment_or_scale_that_does_not_exist_is_one_line(
    fathom, workplace, command, words, line
):
    if command == "figure" and "seed=1" in words:
        pytest.skip("figure trains nothing")
    said = fathom(command, *words)
    assert (
        said.code == 2
        and line in said.err
        and said.err.count("\n") == 1
        and not list(workplace.iterdir())
    )


def test_a_scale_has_runs_and_a_folder_of_its_own(monkeypatch):
    trained = []
    judged = []
    monkeypatch.setattr(train, "main", lambda words, _: trained.append(words) or 0)
    monkeypatch.setattr(experiment, "draw_and_judge", lambda *of: judged.append(of[:2]) or True)
    assert cli.run(["reproduce", "degradation", "--scale", "paper", "tracker=none"]) == 0
    assert cli.run(["figure", "--scale=paper", "degradation"]) == 0
    assert trained == [["experiment=paper/degradation", "hydra/launcher=grouped", "tracker=none"]]
    assert judged == [("paper/degradation", Path("outputs/degradation-paper"))] * 2


def test_who_interrupts_one_experiment_interrupts_those_behind_it(monkeypatch, workplace):
    trained = []

    def interrupted(words, session):
        trained.append(words[0])
        session.interrupted = True
        return 1

    monkeypatch.setattr(train, "main", interrupted)
    assert cli.run(["reproduce", "he_init", "relu_growth"]) == 1 and trained == [
        "experiment=he_init"
    ]


def test_what_is_refused_of_one_experiment_leaves_the_others_alone(monkeypatch, workplace, capsys):
    def train_one(words, _):
        if "experiment=he_init" in words:
            raise errors.UsageError(2)
        return 0

    judged = []
    monkeypatch.setattr(train, "main", train_one)
    monkeypatch.setattr(experiment, "draw_and_judge", lambda name, *_: judged.append(name))
    monkeypatch.setattr(experiment, "closing_table", lambda ended: str(list(ended.values())))
    assert cli.run(["reproduce", "he_init", "relu_growth", "tracker=none"]) == 2 and judged == [
        "relu_growth"
    ]
    assert "[False, True]" in capsys.readouterr().out


def test_one_folder_is_not_for_several_experiments(fathom, workplace):
    said = fathom("reproduce", "he_init", "relu_growth", "name=x")
    assert said.code == 2 and "name=x is the folder of one experiment, 2 are asked for" in said.err


def test_what_is_newer_than_all_it_is_made_of_is_left_as_it_is(monkeypatch, tmp_path):
    claim = Claim("a", "b", "≤ 1", 0.5, (0.0, 1.0), 3, True)
    drawn = []
    parts = types.SimpleNamespace(claims=lambda _: [claim], figure=lambda _: plt.figure())
    monkeypatch.setattr(experiment, "finished_runs", lambda *_: drawn.append(1))
    monkeypatch.setattr(experiment, "_module", lambda *_: parts)
    (run := tmp_path / "run" / "run.json").parent.mkdir()
    run.write_text("{}")
    for again, times in ((False, 1), (False, 1), (True, 2)):
        assert experiment.draw_and_judge("he_init", tmp_path, again) and len(drawn) == times
    later = (tmp_path / "claims.json").stat().st_mtime + 10
    os.utime(run, (later, later))
    assert experiment.draw_and_judge("he_init", tmp_path, False) and len(drawn) == 3
    (tmp_path / "figure.pdf").unlink()
    assert experiment.draw_and_judge("he_init", tmp_path, False) and len(drawn) == 4
