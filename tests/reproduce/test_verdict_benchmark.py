"""The benchmark of the verdict: its labels, its scores, and that a spoiled detector fails it."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from research.diagnosis import depth
from research.records.runs import find_runs
from research.reproduce.experiments import expected_runs, load_module

LABELS = load_module("verdict_benchmark", "labels")
SCORES = load_module("verdict_benchmark", "scores")
CLAIMS = load_module("verdict_benchmark", "claims")
ADVICE = load_module("verdict_benchmark", "advice")
LARGER = "paper/verdict_benchmark"
SMALL = (
    "model.width=16",
    "model.depth=4,20",
    "activation=tanh",
    "init.gain=0.72,0.35",
    "seed=range(0,4)",
    "train.steps=200",
    "train.eval_every=200",
    "measure=full",
    "measure.every=5",
    "tracker=none",
    "name=small",
    "hydra/launcher=grouped",
)


def make_run(**changes):
    """A record of 60 steps that learns, measured at every step, with a gradient like the last's."""
    losses = np.linspace(2.3, 0.5, 60)
    profiles = {
        "step": np.arange(60),
        "signal_grad": np.ones((60, 5)),
        "activation_rms": np.ones((60, 5)),
        "signal_variation": np.ones((60, 5)),
        "dead": np.zeros((60, 4)),
        "saturated": np.zeros((60, 4)),
        "weight_norm": np.ones((60, 4)),
        "update_norm": np.full((60, 4), 1e-3),
        "grad_norm": np.ones((60, 4)),
    }
    metrics = {
        "step": np.arange(60.0),
        "train_loss": losses,
        "eval_loss": losses,
    }
    settings = {
        "loss.kind": "cross_entropy",
        "model.kind": "mlp",
        "model.width": 8,
        "activation.kind": "tanh",
        "precision.kind": "float32",
        "optimizer.kind": "momentum",
        "optimizer.epsilon": None,
        "optimizer.learning_rate": 0.01,
        "measure.inspect": [],
        "train.steps": 60,
    }
    run = FakeRun(settings, profiles, metrics)
    for name, values in changes.items():
        target = profiles if name in profiles else metrics
        target[name] = values
    return run


class FakeRun:
    def __init__(self, settings, profiles, metrics):
        self.settings = settings
        self.profiles = profiles
        self.metrics = metrics
        self.status = "done"
        self.directory = Path("depth=4")
        self.info = {}

    def __getitem__(self, path):
        return self.settings[path]


def from_step(step, before, after):
    """A gauge whose first layer changes at a step."""
    values = np.ones((60, 5))
    values[:step, 0] = before
    values[step:, 0] = after
    return values


def test_every_run_of_the_experiment_has_a_frozen_label():
    arms = LABELS.families()
    labels = LABELS.frozen_labels()
    assert len(labels) == len(arms) >= 300
    assert tuple(f"{label.split}_{label.family}" for label in labels) == arms


def test_a_run_that_learns_is_healthy():
    label = LABELS.label_run(make_run(), "plain_relu", "test")
    assert label.is_unhealthy is False
    assert not any(label.kinds.values())


@pytest.mark.parametrize(
    ("changes", "kind", "onset"),
    [
        ({"signal_grad": from_step(30, 1, 1e-4)}, "vanishing", 30),
        ({"signal_grad": from_step(20, 1, 1e4)}, "exploding", 20),
        ({"signal_grad": np.zeros((60, 5))}, "dead", 0),
        ({"signal_grad": from_step(10, 1, 0)}, "dead", 10),
        ({"train_loss": np.full(60, math.log(10))}, "not_learning", 0),
        ({"train_loss": np.r_[np.ones(40), np.full(20, np.nan)]}, "diverged", 40),
    ],
)
def test_what_the_raw_record_shows_is_the_label(changes, kind, onset):
    label = LABELS.label_run(make_run(**changes), "plain_relu", "test")
    assert label.kinds[kind]
    assert label.onsets[kind] == onset
    assert label.is_unhealthy


def test_a_number_close_to_its_limit_is_not_scored():
    run = make_run(signal_grad=from_step(0, 1, 1e-2))
    label = LABELS.label_run(run, "plain_relu", "test")
    assert "vanishing" not in label.kinds
    assert label.is_unhealthy is None


def test_what_was_injected_is_the_label_whatever_the_record_says():
    label = LABELS.label_run(make_run(), "no_rate", "test")
    assert label.kinds["not_learning"]
    assert label.onsets["not_learning"] == 0


def test_labels_are_read_as_they_were_written(tmp_path):
    run = make_run(signal_grad=from_step(30, 1, 1e-4))
    label = LABELS.label_run(run, "plain_relu", "test")
    LABELS.write_labels([run], [label], tmp_path / "labels.csv")
    assert LABELS.read_labels(tmp_path / "labels.csv") == [label]


def judge_as(kind, label, since_step=0):
    findings = [{"kind": kind, "last_step": None}] if kind != "healthy" else []
    verdict = {"kind": kind, "since_step": since_step, "findings": findings}
    return SCORES.Judged(label, verdict, 100)


def test_scores_count_hits_misses_and_false_alarms():
    vanishing = LABELS.Label("", "test", {"vanishing": True}, {"vanishing": 10}, True)
    healthy = LABELS.Label("", "test", {"vanishing": False}, {}, False)
    judged = [
        judge_as("vanishing", vanishing, since_step=14),
        judge_as("healthy", vanishing),
        judge_as("vanishing", healthy),
        judge_as("healthy", healthy),
        judge_as("healthy", healthy),
    ]

    confusion = SCORES.confuse(judged)
    (score,) = SCORES.score_kinds(judged)

    assert confusion.sensitivity == 1 / 2
    assert confusion.specificity == 2 / 3
    assert (score.hits, score.misses, score.false_alarms) == (1, 1, 1)
    assert SCORES.onset_errors(judged) == [pytest.approx(0.04)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("band", "holds"),
    [
        pytest.param(depth.BAND, True, id="as it is"),
        pytest.param(1e30, False, id="never alarmed"),
        pytest.param(1.5, False, id="always alarmed"),
    ],
)
def test_a_spoiled_detector_fails_the_claims(monkeypatch, workplace, fathom, band, holds):
    monkeypatch.setattr(depth, "BAND", band)
    said = fathom("train", "-m", *SMALL)
    assert said.code == 0, said.err

    judged = []
    for run in find_runs(workplace / "outputs"):
        label = LABELS.label_run(run, "", "test")
        judged.append(SCORES.Judged(label, run.info["verdict"], run["train.steps"]))

    assert len(judged) == 16
    assert all(claim.holds for claim in CLAIMS.claims_on_verdicts(judged)) is holds


@pytest.mark.parametrize(
    ("found", "says_unhealthy"),
    [("", False), ("fall:36", False), ("rise:40 fall:36", True)],
)
def test_a_finding_of_a_peer_counts_unless_it_is_ignored(found, says_unhealthy):
    reading = SCORES.Reading("a tool", "column", ignored=("fall",))
    assert reading.says_unhealthy({"column": found}) is says_unhealthy


@pytest.mark.slow  # composes all runs
def test_what_peers_found_is_about_runs_of_the_experiment():
    names = set(expected_runs("verdict_benchmark"))
    assert set(SCORES.read_peers()) <= names


def test_the_advice_is_tried_on_two_unhealthy_test_runs_of_each_family():
    labels = LABELS.frozen_labels()
    numbers = list(range(len(labels)))

    sample = ADVICE.draw_sample(numbers, labels)

    drawn = [labels[number] for number in sample]
    families = Counter(label.family for label in drawn)
    assert sample == ADVICE.draw_sample(numbers, labels)
    assert all(label.split == "test" and label.is_unhealthy for label in drawn)
    assert set(families.values()) == {2}


def invent_larger_runs(judge):
    """A record for each run of the larger configuration; ``judge`` makes a verdict of its label."""
    runs = []
    for arm in LABELS.families(LARGER):
        chance = np.full(60, math.log(10))
        if arm.removeprefix("test_") in LABELS.INJECTED:
            run = make_run(train_loss=chance)
        elif arm in ("test_small_weights", "test_sigmoid"):
            run = make_run(signal_grad=from_step(0, 1e-4, 1e-4), train_loss=chance)
        else:
            run = make_run(train_loss=np.linspace(2.3, 0.1, 60))
        runs.append(run)
    for run, label in zip(runs, LABELS.label_runs(runs, LARGER), strict=True):
        run.info["verdict"] = judge(label)
    return runs


def judge_rightly(label):
    found = [kind for kind, is_there in label.kinds.items() if is_there]
    findings = [{"kind": kind, "last_step": None} for kind in found]
    kind = found[0] if found else "healthy"
    return {"kind": kind, "since_step": 0, "findings": findings}


def judge_as_healthy(label):
    return {"kind": "healthy", "since_step": None, "findings": []}


def test_claims_on_larger_runs_hold_for_right_verdicts_only():
    make_claims = load_module(LARGER, "claims").claims
    rightly = make_claims(invent_larger_runs(judge_rightly))
    as_healthy = make_claims(invent_larger_runs(judge_as_healthy))
    assert [claim.statement for claim in rightly if not claim.holds] == []
    assert {claim.statement for claim in as_healthy if claim.holds} == {
        "healthy runs without a severe finding",
        "runs whose training loss ends below 0.3 of chance, without a severe finding",
    }


@pytest.mark.slow  # labels all runs, as the claims do
def test_the_figure_of_larger_runs_counts_their_verdicts():
    draw = load_module(LARGER, "figure").figure
    canvas = draw(invent_larger_runs(judge_rightly))
    matrix, scores = canvas.axes
    assert matrix.get_title().endswith("balanced accuracy 1.000")
    assert [label.get_text() for label in scores.get_yticklabels()]
