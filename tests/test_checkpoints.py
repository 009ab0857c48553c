"""A run that is taken up where its checkpoint left it is the run that nobody interrupted."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from research.recording import Recording
from research.records.analysis import Run
from research.training import checkpoint
from research.training.checkpoint import Checkpoints, Writer

SMALL = ["model.depth=2", "model.width=8", "train.steps=25", "train.eval_every=5", "tracker=none", "checkpoint.keep=true"]
KINDS = [
    ["optimizer=adam", "norm=batch", "model.dropout=0.2", "train.input_noise=0.1", "measure.every=2"],
    pytest.param(["precision=bfloat16", "precision.stochastic_rounding=true"], marks=pytest.mark.slow),
    pytest.param(
        ["precision=mixed_float16", "precision.loss_scaling=dynamic", "precision.growth_interval=3", "measure=full",
         "measure.exponents_every=7", "measure.inspect=[sharpness]", "measure.inspect_every=6"],
        marks=pytest.mark.slow,
    ),  # fmt: skip
    pytest.param(["precision=float64", "measure=full", "skip=identity", "init.gain=0.01"], marks=pytest.mark.slow),
    pytest.param(["optimizer=gd", "optimizer.schedule=linear", "measure=off"], marks=pytest.mark.slow),
    pytest.param(["model=cnn", "norm=batch", "optimizer=muon", "optimizer.schedule=step"], marks=pytest.mark.slow),
    pytest.param(["model=transformer", "data=python_docs", "optimizer=adamw"], marks=pytest.mark.slow),
]
TABLES = ("metrics", "profiles", "inspections")


@pytest.fixture(autouse=True)
def _behind_every_chunk(monkeypatch):
    """There is a checkpoint behind every chunk, and it is written before the next one."""
    write = Writer.write

    def at_once(writer, runs):
        write(writer, runs)
        writer.wait()

    monkeypatch.setattr(Writer, "write", at_once)
    monkeypatch.setattr(checkpoint, "REST", 0)


@pytest.fixture
def train(fathom, tmp_path, monkeypatch):
    """Trains in a folder of that name, up to ``stop`` where it is interrupted without a word; the runs by seed."""

    def start(folder, *words, stop=None, raised=KeyboardInterrupt):
        take = Recording.take

        def dies(recording, start, *rest):
            if stop is not None and start >= stop and recording.config.seed == 0:
                raise raised
            take(recording, start, *rest)

        (tmp_path / folder).mkdir(exist_ok=True)
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path / folder)
            patch.setattr(Recording, "take", dies)
            said = fathom("train", *SMALL, "checkpoint.every=1e-9", "name=study", *words)
            runs = [Run(file.parent.absolute()) for file in Path().glob("outputs/study/*/run.json")]
        return {run["seed"]: run for run in runs}, said

    return start


def parameters(run):
    found = Checkpoints(run.directory).read(lambda: form(run))
    assert found is not None and found.step == run.info["steps"]
    return found.arrays


def form(run):
    """The arrays' own: nothing is known of the network here."""
    import orbax.checkpoint as ocp

    (place,) = (run.directory / "checkpoints").iterdir()
    with ocp.PyTreeCheckpointer() as orbax:
        return {path: (array.shape, array.dtype) for path, array in orbax.restore(place).items()}


def assert_same(run, other):
    """Bit for bit, but for seconds."""
    for table in TABLES:
        mine, its = (each.directory / f"{table}.parquet" for each in (run, other))
        assert mine.exists() == its.exists()
        assert not mine.exists() or pq.read_table(mine).equals(pq.read_table(its)), table
    for key in ("id", "status", "steps", "final", "verdict", "parameters", "data"):
        assert run.info[key] == other.info[key], key
    ours, theirs = parameters(run), parameters(other)
    assert list(ours) == list(theirs)
    assert all(ours[path].tobytes() == theirs[path].tobytes() for path in ours)


@pytest.mark.parametrize("words", KINDS, ids=" ".join)
def test_a_run_goes_on_as_if_nobody_had_interrupted_it(train, words):
    (whole,) = train("whole", *words)[0].values()
    runs, said = train("cut", *words, stop=11)
    cut = runs[0]
    assert said.code == 1 and cut.info["status"] == "interrupted" and 11 <= cut.info["steps"] < 25
    runs, said = train("cut", *words)
    cut = runs[0]
    assert said.code == 0 and f"goes on from step {cut.info['resumed'][0]}/25" in said.err, said.err
    assert_same(cut, whole)
    assert cut.info["resumed"][0] >= 11 and "resumed" not in whole.info
    assert {file.name for file in cut.directory.iterdir()} == {file.name for file in whole.directory.iterdir()}
