"""The larger configurations of experiments: every run composes and has results."""

import sys

import numpy as np
import pytest
import yaml
from hydra.core.plugins import Plugins

from research.config.hydra_config import resource_dir
from research.config.schema import flatten
from research.reporting.figures import style
from research.reproduce.experiments import (
    expected_runs,
    experiment_names,
    load_module,
    output_name,
)

from ..described import own_data as own_data

KEYS = experiment_names("paper")
# The claims of the benchmark of the verdict are not about accuracy: see test_verdict_benchmark.py.
KEYS_ABOUT_ACCURACY = [key for key in KEYS if key != "paper/verdict_benchmark"]
STAND_INS = {  # of the same shape as data that has to be downloaded
    "cifar10": ("data=noise", "data.shape=[32,32,3]", "data.examples=16"),
    "mnist": ("data=noise", "data.shape=[28,28,1]", "data.examples=16"),
    "tiny_shakespeare": ("data=python_docs",),
}
FEW_STEPS = (
    "train.steps=2",
    "train.batch_size=4",
    "data.limit=8",
    "tracker=none",
    "hydra.mode=RUN",
)
STEPS = 200
EVAL_EVERY = 50
CHEAP = ("paper/degradation", "paper/norm_free")  # few jobs


class Plan:
    """The jobs of an experiment and the runs that they compose to."""

    def __init__(self):
        self.jobs = []
        self.run_specs = []


@pytest.fixture
def plan_experiment(fathom, own_data, monkeypatch):
    """Has ``fathom train`` plan an experiment and returns its ``Plan``; nothing is trained."""

    def plan_experiment(key):
        plan = Plan()

        def record_jobs(sweeper, jobs):
            for job in jobs:
                plan.jobs.append(job)
                plan.run_specs.append(sweeper.composer.make_run_spec(sweeper.config, job))
            return [{"directory": "nowhere", "status": "done"}] * len(jobs)

        Plugins.instance()  # loads the module of the sweeper
        sweeper_module = sys.modules["hydra_plugins.fathom_sweeper"]
        with monkeypatch.context() as patch:
            patch.setattr(sweeper_module.FathomSweeper, "launch_jobs", record_jobs)
            said = fathom("train", f"experiment={key}", "tracker=none")
        assert said.code == 0, said.err
        return plan

    return plan_experiment


class InventedRun:
    """A finished run whose accuracy follows from its settings, as claims and figures read it."""

    def __init__(self, run_spec, accuracy_of):
        self.config = flatten(run_spec.config)
        accuracy = accuracy_of(self.config)
        loss = 3.3 * (1 - accuracy)
        eval_accuracy = np.full(STEPS, np.nan)
        eval_accuracy[EVAL_EVERY - 1 :: EVAL_EVERY] = accuracy
        self.metrics = {
            "eval_accuracy": eval_accuracy,
            "train_accuracy": np.full(STEPS, accuracy),
            "epoch": np.arange(STEPS) / EVAL_EVERY,
        }
        self.info = {
            "status": "done",
            "final": {
                "train_accuracy": accuracy,
                "eval_accuracy": accuracy,
                "train_loss": loss,
                "eval_loss": loss,
            },
            "data": {"unigram_entropy": 3.3},
        }

    def __getitem__(self, path):
        return self.config[path]


def invent_runs(plan, accuracy_of):
    return [InventedRun(run_spec, accuracy_of) for run_spec in plan.run_specs]


def degradation(settings):
    depth = settings["model.depth"]
    residual = {20: 0.9125, 56: 0.9303, 110: 0.9357}
    loss_without_skip = depth / 500 if settings["skip.kind"] == "none" else 0
    return residual[depth] - loss_without_skip


def shortcuts(settings):
    gate = settings["skip.gate_bias"]
    match settings["skip.kind"]:
        case "identity":
            return 0.935
        case "projection":
            return 0.88
        case "scaled":
            return {0.5: 0.876, 1.0: 0.1}[settings["skip.branch_scale"]]
        case "highway":
            return {-6: 0.913, -7: 0.902}.get(gate, 0.1)
        case "gated":
            return {0: 0.871}.get(gate, 0.931)
    return 0.1


def norm_free(settings):
    return 0.935 if settings["norm.kind"] == "batch" else 0.925


def norm_placement(settings):
    is_post = settings["norm.placement"] == "post" and settings["skip.kind"] == "identity"
    is_deep = settings["model.depth"] > 24
    has_warmup = settings["optimizer.warmup_steps"] > 0
    return 0.05 if is_post and is_deep and not has_warmup else 0.4


def layernorm_scaling(settings):
    is_usual = settings["norm.placement"] == "pre" and settings["norm.scale"] == "one"
    return 0.4 if is_usual else 0.45


def hyper_connections(settings):
    return 0.4 if settings["skip.kind"] == "identity" else 0.45


def depth_transfer(settings):
    is_standard = settings["model.parametrization"] == "standard"
    octaves = np.log2(settings["model.depth"] / 3) if is_standard else 0
    best = -9 - octaves / 2
    return 0.5 - 0.05 * abs(np.log2(settings["optimizer.learning_rate"]) - best)


def batch_norm_explosion(settings):
    return 0.97 if settings["model.depth"] <= 40 else 0.12


def dynamical_isometry(settings):
    return 0.95


PUBLISHED = {  # by experiment, the accuracy that its paper leads one to expect
    "paper/batch_norm_explosion": batch_norm_explosion,
    "paper/degradation": degradation,
    "paper/depth_transfer": depth_transfer,
    "paper/dynamical_isometry": dynamical_isometry,
    "paper/hyper_connections": hyper_connections,
    "paper/layernorm_scaling": layernorm_scaling,
    "paper/norm_free": norm_free,
    "paper/norm_placement": norm_placement,
    "paper/shortcuts": shortcuts,
}


def mark_slow(key):
    return key if key in CHEAP else pytest.param(key, marks=pytest.mark.slow)


def holding(key, runs):
    """For each claim of an experiment, whether it holds for these runs."""
    claims = load_module(key, "claims").claims(runs)
    return np.array([claim.holds for claim in claims])


@pytest.mark.parametrize("key", [mark_slow(key) for key in KEYS_ABOUT_ACCURACY])
def test_claims_and_figure_are_made_of_the_records_of_all_runs(plan_experiment, key):
    plan = plan_experiment(key)
    names = [run_spec.directory.name for run_spec in plan.run_specs]
    folders = {run_spec.directory.parent.name for run_spec in plan.run_specs}
    assert names == list(expected_runs(key))
    assert folders == {output_name(key)}

    accuracy_of = PUBLISHED[key]
    as_published = invent_runs(plan, accuracy_of)
    good = invent_runs(plan, lambda settings: 0.95)
    bad = invent_runs(plan, lambda settings: 0.1)
    reversed_order = invent_runs(plan, lambda settings: 1 - accuracy_of(settings))
    holds_as_published = holding(key, as_published)
    assert len(holds_as_published) > 0
    assert np.all(holds_as_published)
    with np.errstate(invalid="ignore"):  # no correlation where all are alike
        holds_whatever_happens = (
            holding(key, good) & holding(key, bad) & holding(key, reversed_order)
        )
    assert not np.any(holds_whatever_happens)

    draw = load_module(key, "figure").figure
    with style():
        draw(as_published).savefig("figure.png")
        draw(reversed_order).savefig("figure.png")


@pytest.mark.parametrize("key", KEYS)
def test_a_larger_configuration_states_its_claim_and_belongs_to_an_experiment(key):
    name = key.removeprefix("paper/")
    text = (resource_dir("conf") / "experiment" / f"{key}.yaml").read_text()
    page = (resource_dir("experiments") / name / "README.md").read_text()
    package, claim = text.splitlines()[:2]
    assert package == "# @package _global_"
    assert claim.startswith("# ")
    assert f"fathom reproduce {name} --scale paper" in text
    assert yaml.safe_load(text)["name"] == output_name(key)
    assert name in experiment_names()
    assert "--scale paper" in page


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_the_first_run_of_a_larger_configuration_trains_two_steps(
    plan_experiment, fathom, workplace, monkeypatch, key
):
    plan = plan_experiment(key)
    dataset = plan.run_specs[0].config.data.name.name
    monkeypatch.delenv("TFDS_DATA_DIR")
    job = [override for override in plan.jobs[0] if not override.startswith("hydra.sweep.")]
    said = fathom("train", f"experiment={key}", *STAND_INS[dataset], *job, *FEW_STEPS)
    assert said.code == 0, said.err
    (run,) = workplace.glob(f"outputs/{output_name(key)}/*/run.json")
    assert yaml.safe_load(run.read_text())["steps"] == 2
