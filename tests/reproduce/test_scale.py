"""The larger configurations of experiments: every run composes, claims and figure are made of their records alone."""

import sys
import types

import numpy as np
import pytest
import yaml
from hydra.core.plugins import Plugins

from research.config import schema as config
from research.config.hydra_config import resource_dir
from research.reporting.figures import style
from research.reproduce import experiments as experiment
from research.reproduce.experiments import expected_runs, names

from ..described import own_data as own_data

KEYS = names("paper")
STAND_INS = {  # of the shape of the data that these need and that are not at hand
    "cifar10": ("data=noise", "data.shape=[32,32,3]", "data.examples=16"),
    "mnist": ("data=noise", "data.shape=[28,28,1]", "data.examples=16"),
    "tiny_shakespeare": ("data=python_docs",),
}
STEPS = 200
TESTED = 50
CHEAP = ("paper/degradation", "paper/norm_free")  # few jobs


@pytest.fixture
def planned(fathom, own_data, monkeypatch):
    """The jobs of an experiment and the configurations that they compose to; nothing is trained."""

    def plan(key):
        Plugins.instance()  # loads the sweeper anew
        jobs = []
        members = []
        sweeper = sys.modules["hydra_plugins.fathom_sweeper"].FathomSweeper

        def keep(self, these):
            jobs.extend(these)
            members.extend(self.composer.make_run_spec(self.config, job) for job in these)
            return [{"directory": "nowhere", "status": "done"}] * len(these)

        with monkeypatch.context() as patch:
            patch.setattr(sweeper, "launch_jobs", keep)
            said = fathom("train", f"experiment={key}", "tracker=none")
        assert said.code == 0, said.err
        return jobs, members

    return plan


def recorded(member, better):
    """A run as it might have ended; ``better`` maps its settings to an accuracy."""
    settings = config.flatten(member.config)
    accuracy = better(settings)
    tested = np.full(STEPS, np.nan)
    tested[TESTED - 1 :: TESTED] = accuracy
    metrics = {
        "eval_accuracy": tested,
        "train_accuracy": np.full(STEPS, accuracy),
        "epoch": np.arange(STEPS) / TESTED,
    }
    final = {f"{split}_accuracy": accuracy for split in ("train", "eval")}
    final |= {f"{split}_loss": 3.3 * (1 - accuracy) for split in ("train", "eval")}
    info = {"status": "done", "final": final, "data": {"unigram_entropy": 3.3}}
    run = types.SimpleNamespace(config=settings, info=info, metrics=metrics)
    return type("Recorded", (), {**vars(run), "__getitem__": lambda self, path: settings[path]})()


SHORTCUT = {"identity": 0.935, "none": 0.1, "projection": 0.88, "dropout": 0.1}


def as_published(settings):
    """The accuracy that the papers lead one to expect."""
    skip = settings["skip.kind"]
    norm = settings["norm.kind"]
    depth = settings["model.depth"]
    match settings["name"]:
        case "degradation-paper":
            return {20: 0.9125, 56: 0.9303, 110: 0.9357}[depth] - (
                depth / 500 if skip == "none" else 0
            )
        case "shortcuts-paper" if skip in ("scaled", "highway", "gated"):
            gate = settings["skip.gate_bias"]
            branch = settings["skip.branch_scale"]
            known = {
                "scaled": {0.5: 0.876, 1.0: 0.1}[branch],
                "highway": {-6: 0.913, -7: 0.902}.get(gate, 0.1),
            }
            return known[skip] if skip in known else {0: 0.871}.get(gate, 0.931)
        case "shortcuts-paper":
            return SHORTCUT[skip]
        case "norm_free-paper":
            return 0.935 if norm == "batch" else 0.925
        case "norm_placement-paper":
            deep = settings["norm.placement"] == "post" and skip == "identity" and depth > 24
            return 0.05 if deep and not settings["optimizer.warmup_steps"] else 0.4
        case "batch_norm_explosion-paper":
            return 0.97 if depth <= 40 else 0.12
    return 0.95


@pytest.mark.parametrize(
    "key", [key if key in CHEAP else pytest.param(key, marks=pytest.mark.slow) for key in KEYS]
)
def test_claims_and_figure_are_made_of_the_records_of_all_runs(planned, key):
    jobs, members = planned(key)
    assert [member.directory.name for member in members] == list(expected_runs(key))
    assert {member.directory.parent.name for member in members} == {experiment.study(key)}
    claims, figure = (experiment._module(key, part) for part in ("claims", "figure"))
    good = claims.claims([recorded(member, as_published) for member in members])
    assert good and all(claim.holds for claim in good), [claim for claim in good if not claim.holds]
    worlds = [
        lambda settings: 0.95,
        lambda settings: 0.1,
        lambda settings: 1 - as_published(settings),
    ]
    others = [[recorded(member, world) for member in members] for world in worlds]
    with np.errstate(invalid="ignore"):  # no correlation where all are alike
        held = np.array([[claim.holds for claim in claims.claims(runs)] for runs in others])
    assert not np.any(np.all(held, axis=0)), "a claim that holds whatever comes out"
    with style():
        for runs in ([recorded(member, as_published) for member in members], others[-1]):
            figure.figure(runs).savefig("figure.png")


@pytest.mark.parametrize("key", KEYS)
def test_a_larger_configuration_states_its_claim_and_belongs_to_an_experiment(key):
    text = (resource_dir("conf") / "experiment" / f"{key}.yaml").read_text()
    package, claim = text.splitlines()[:2]
    name = key.removeprefix("paper/")
    assert package == "# @package _global_" and claim.startswith("# ") and name in names()
    assert f"fathom reproduce {name} --scale paper" in text and yaml.safe_load(text)[
        "name"
    ] == experiment.study(key)
    assert "--scale paper" in (resource_dir("experiments") / name / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_the_first_run_of_a_larger_configuration_trains_two_steps(
    planned, fathom, workplace, monkeypatch, key
):
    jobs, members = planned(key)
    monkeypatch.delenv("TFDS_DATA_DIR")
    stand_in = STAND_INS[members[0].config.data.name.name]
    few = ("train.steps=2", "train.batch_size=4", "data.limit=8", "tracker=none", "hydra.mode=RUN")
    said = fathom("train", f"experiment={key}", *stand_in, *jobs[0], *few)
    assert said.code == 0, said.err
    (run,) = workplace.glob(f"outputs/{experiment.study(key)}/*/run.json")
    assert yaml.safe_load(run.read_text())["steps"] == 2
