"""Paths mean what they meant when the command was given, also where Hydra changes directory."""

import os

import numpy as np
import pytest
import wandb

from research.records.runs import Run
from research.records.trackers.identity import find_run_id

SMALL = ["model.depth=2", "model.width=8", "train.steps=3", "train.batch_size=8"]


@pytest.mark.slow
def test_hydra_may_change_to_the_directory_of_the_run(fathom, workplace, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_GROUP", 200 * "g")
    monkeypatch.setenv("WANDB_TAGS", "paper")
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((40, 6))
    np.savez(workplace / "data.npz", x=inputs, y=np.arange(40) % 2)

    result = fathom(
        "train", "data=arrays", "data.path=data.npz", "hydra.job.chdir=true", "name=study", *SMALL
    )

    assert result.code == 0, result.err
    assert os.getcwd() == str(workplace)
    assert sorted(os.listdir(workplace / "outputs")) == ["study", "wandb"]
    (file,) = workplace.glob("outputs/study/*/run.json")
    run = Run(file.parent)
    assert run.info["steps"] == 3
    (folder,) = workplace.glob("outputs/wandb/offline-run-*")
    assert find_run_id(folder.name).startswith(run.info["id"])
    wandb.teardown()
    assert not list(run.directory.rglob("wandb"))
