"""Advice that is tried: each rule on a run that needs it, and what is kept of the trials."""

import contextlib
import json
import math
import os
import signal
from dataclasses import dataclass

import pytest

from research.records.runs import Run
from research.records.tried import Tried, TriedChange, read_tried, write_tried
from research.reporting.remedies import describe_tried, format_interval

# Runs that fail, each by the rule that should help; the settings of the run.
CASES = {
    "vanishing sigmoid": ["activation=sigmoid", "model.depth=16"],
    "vanishing sigmoid at a large rate": [
        "activation=sigmoid",
        "model.depth=16",
        "optimizer.learning_rate=0.5",
    ],
    "vanishing relu": ["init=glorot", "model.depth=40"],
    "vanishing tanh": ["activation=tanh", "init=old_uniform", "model.depth=30"],
    "vanishing gelu": ["activation=gelu", "init=lecun", "model.depth=40"],
    "exploding relu": ["init.gain=1.5", "model.depth=40"],
    "exploding batch norm": ["norm=batch", "model.depth=60"],
    "exploding residual": ["skip=identity", "model.depth=64"],
    "damped shortcut": ["skip=scaled", "skip.shortcut_scale=0.5", "model.depth=32"],
    "closed gates": ["skip=highway", "skip.gate_bias=0", "model.depth=32"],
    "zero weights": ["init=zeros"],
    "diverged by the rate": ["optimizer.learning_rate=30", "model.depth=4"],
    "forward overflow": ["precision=mixed_float16", "init.gain=4", "model.depth=16"],
    "initial overflow": ["init.gain=100", "model.depth=24"],
    "forward underflow": ["precision=float16", "init=glorot", "init.gain=0.5", "model.depth=24"],
    "rate of zero": ["optimizer.learning_rate=0", "model.depth=4"],
    "rate too small": ["optimizer.learning_rate=1e-7", "model.depth=4"],
}


@dataclass(frozen=True)
class Case:
    """A run that fails, and what came of its advice."""

    run: Run
    tried: Tried


@pytest.fixture(scope="module")
def cases(fathom, tmp_path_factory):
    """Every case with its advice trained; those that share a program are trained as one."""
    place = tmp_path_factory.mktemp("advice")
    directories = {}
    with contextlib.chdir(place):
        for number, (name, settings) in enumerate(CASES.items()):
            fathom("train", "tracker=none", f"name={number}", "train.steps=200", *settings)
            (file,) = place.glob(f"outputs/{number}/*/run.json")
            directories[name] = file.parent
        result = fathom("remedy", *map(str, directories.values()))
    assert result.code == 0, result.err
    tried = {}
    for name, directory in directories.items():
        changes = read_tried(directory)
        assert changes is not None
        tried[name] = Case(Run(directory), changes)
    return tried


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_first_advice_helps(cases, name):
    case = cases[name]
    first = case.run.info["verdict"]["findings"][0]["remedies"][0]["change"]
    results = {}
    for change in case.tried.changes:
        results[change.change] = (change.result(case.tried.unchanged), change.train_loss)
    assert results[first][0] == "helps", (first, results)


@pytest.mark.slow
def test_show_cites_what_was_tried_and_the_command_can_be_copied(fathom, workplace):
    settings = ["activation=sigmoid", "model.depth=16", "model.width=16", "train.steps=200"]
    fathom("train", "tracker=none", "name=bad", *settings)
    (file,) = workplace.glob("outputs/bad/*/run.json")
    result = fathom("remedy", str(file.parent))
    tried = read_tried(file.parent)
    assert tried is not None
    assert tried.best is not None
    assert describe_tried(tried) in fathom("show", str(file.parent)).out
    (command,) = [line for line in result.out.splitlines() if line.startswith("fathom train")]
    for part in ("model.depth=16", *tried.best.change.split(), "name=bad-remedy"):
        assert part in command


def make_change(change, losses, accuracy=()):
    return TriedChange(change, "a source", losses, list(accuracy), "healthy", 1.0)


UNCHANGED = make_change("unchanged", [2.3, 2.4, 2.2])


@pytest.mark.parametrize(
    ("losses", "result"),
    [
        ([0.1, 0.2, 0.1], "helps"),
        ([2.29, 2.39, 2.19], "same"),
        ([0.1, 2.5, 0.1], "same"),
        ([math.inf, 3.0, 4.0], "worse"),
    ],
)
def test_a_change_helps_where_all_seeds_agree(losses, result):
    assert make_change("skip=identity", losses).result(UNCHANGED) == result


def test_what_was_tried_is_read_back(tmp_path):
    best = make_change("skip=identity", [0.1, 0.2, 0.1], [0.9, 0.9, 0.9])
    diverged = make_change("norm=layer", [math.inf] * 3)
    tried = Tried(300, UNCHANGED, [best, diverged])
    write_tried(tmp_path, tried)
    assert json.loads((tmp_path / "remedies.json").read_text())["steps"] == 300
    assert read_tried(tmp_path) == tried
    assert tried.best == best
    assert "skip=identity helps, training loss 0.133 ± 0.14 instead of 2.3 ± 0.25" in (
        describe_tried(tried)
    )


def test_a_damaged_file_says_nothing(tmp_path):
    assert read_tried(tmp_path) is None
    (tmp_path / "remedies.json").write_text("{}")
    assert read_tried(tmp_path) is None


def test_an_interval_needs_finite_numbers():
    assert format_interval([math.inf, 1.0]) == "–"
    assert format_interval([]) == "–"


def test_a_terminated_command_writes_its_rows_and_says_so(workplace, fathom, monkeypatch):
    def end(*_):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("research.sweeps.remedies.plan_trials", give_one_trial)
    monkeypatch.setattr("research.sweeps.remedies.train_trials", end)
    directory = workplace / "outputs" / "bad" / "run"
    (directory / ".hydra").mkdir(parents=True)
    (directory / "run.json").write_text('{"status": "done"}')

    result = fathom("remedy", str(directory))

    assert result.code == 1
    assert result.err == "fathom: interrupted\n"


def give_one_trial(*_):
    """A trial that is never trained."""
    return [None]


@pytest.mark.parametrize("words", [[], ["nothing_like_this"]])
def test_a_run_has_to_be_named(fathom, workplace, words):
    result = fathom("remedy", *words)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert not list(workplace.iterdir())
