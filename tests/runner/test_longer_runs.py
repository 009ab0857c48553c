"""A longer run goes on from the kept state of a shorter one, and equals a run from the start."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from research.config.options import Momentum, Schedule
from research.records.runs import Run
from research.runner.kept import load_snapshot
from research.training.optimizers import depends_on_length

from .reading import have_same_tables

SHORT = "train.steps=13"
LONG = "train.steps=27"
KEPT = ["model.depth=2", "model.width=8", "checkpoint.keep=true", "tracker.wandb=false"]


@pytest.fixture
def train(fathom, workplace, quickly_compiled):
    """Trains a run of a study; gives it and what the command wrote to standard error."""

    def train(study, *words):
        known = set(workplace.glob(f"outputs/{study}/*/run.json"))
        said = fathom("train", *KEPT, f"name={study}", *words)
        assert said.code == 0, said.err
        (file,) = set(workplace.glob(f"outputs/{study}/*/run.json")) - known
        return Run(file.parent), said.err

    return train


def arrays_of(run):
    """Parameters and optimizer state of a run, from its kept checkpoint; not its random key."""
    state = load_snapshot(run.directory).state
    leaves = jax.tree.leaves(dataclasses.replace(state, key=None))
    assert len(leaves) > 3
    return leaves


def rows_of(run):
    return (run.directory / "metrics.parquet").read_bytes()


def pretend_other_version(file):
    info = json.loads(file.read_text())
    info["versions"]["jax"] = "0.9.9"
    file.write_text(json.dumps(info))


def test_it_equals_a_run_from_the_start_bit_for_bit(train):
    short, _ = train("study", SHORT)
    before = rows_of(short)
    pretend_other_version(short.directory / "run.json")
    continued, err = train("study", LONG)
    whole, _ = train("other", LONG)

    assert continued.info["resumed"] == [13]
    assert continued.info["continues"] == {"run": short.directory.name, "step": 13}
    assert "resumed" not in whole.info
    assert np.isfinite(short.metrics["eval_loss"][12])
    assert np.isnan(continued.metrics["eval_loss"][12])
    assert have_same_tables(continued, whole)
    assert continued.info["final"] == whole.info["final"]
    assert continued.info["verdict"] == whole.info["verdict"]
    for left, right in zip(arrays_of(continued), arrays_of(whole), strict=True):
        assert np.array_equal(left, right)
    assert rows_of(short) == before
    assert err.count("began under JAX 0.9.9 and goes on under") == 1


@pytest.mark.slow
def test_another_run_is_not_continued(train):
    train("study", SHORT)
    other, _ = train("study", LONG, "seed=1")
    assert "resumed" not in other.info


@pytest.mark.slow
def test_a_schedule_that_depends_on_the_length_is_said_in_one_line(train):
    cosine = "optimizer.schedule=cosine"
    short, _ = train("study", SHORT, cosine)
    long, err = train("study", LONG, cosine)
    assert "resumed" not in long.info
    (line,) = [line for line in err.splitlines() if line.startswith("fathom: ")]
    assert line == (
        f"fathom: {long.directory.name} starts from step 0 and does not continue "
        f"{short.directory.name}, because {cosine} depends on the length of the run"
    )


@pytest.mark.slow
@pytest.mark.parametrize("table", ["metrics", "profiles"])
def test_rows_that_have_changed_are_not_used(train, table):
    short, _ = train("study", SHORT)
    (part, *_) = sorted((short.directory / f"{table}.parts").glob("*.parquet"))
    content = bytearray(part.read_bytes())
    content[20] ^= 1
    part.write_bytes(content)
    long, err = train("study", LONG)
    assert "resumed" not in long.info
    assert "its state cannot be used: " in err
    whole, _ = train("other", LONG)
    assert have_same_tables(long, whole)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, False),
        ({"schedule": Schedule.warmup, "warmup_steps": 5}, False),
        ({"schedule": Schedule.cosine}, True),
        ({"schedule": Schedule.cosine, "decay_steps": 9}, False),
        ({"schedule": Schedule.step}, True),
        ({"schedule": Schedule.step, "boundaries": (3,)}, False),
        ({"schedule": Schedule.linear}, True),
        ({"schedule": Schedule.exponential, "transition_steps": 4}, False),
    ],
)
def test_which_schedules_depend_on_the_length(settings, expected):
    assert depends_on_length(Momentum(**settings)) is expected
