"""Recorded runs that no program trained: their numbers are known."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from scipy import stats

from research.config.schema import Config, to_dict
from research.records.runs import Run

STEPS = 20


def set_path(tree, path, value):
    *groups, name = path.split(".")
    for group in groups:
        tree = tree.setdefault(group, {})
    tree[name] = value


def write_table(directory, name, columns):
    arrays = {}
    for column, values in columns.items():
        values = np.asarray(values)
        if values.ndim > 1:
            values = values.tolist()
        arrays[column] = pa.array(values)
    pq.write_table(pa.table(arrays), directory / f"{name}.parquet")


def write_run(
    directory,
    settings=None,
    *,
    status="done",
    final=None,
    verdict=None,
    loss=None,
    signal=None,
    steps=STEPS,
    info=None,
):
    """A run with these settings by path, final numbers, losses [S] and gradients [S, N+1]."""
    settings = {"seed": 0, **(settings or {})}
    config = to_dict(Config())
    for path, value in settings.items():
        set_path(config, path, value)
    (directory / ".hydra").mkdir(parents=True)
    (directory / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    identity = json.dumps(settings, sort_keys=True)
    content = {
        "id": identity,
        "seed": settings["seed"],
        "status": status,
        "steps": steps,
        "layers": config["model"]["depth"],
        "final": final or {},
        "verdict": verdict,
        **(info or {}),
    }
    (directory / "run.json").write_text(json.dumps(content))
    if loss is None:
        loss = np.linspace(2, 1, steps)
    recorded = np.arange(len(loss))
    write_table(directory, "metrics", {"step": recorded, "train_loss": loss})
    if signal is not None:
        signal = np.asarray(signal, float)
        measured = np.arange(len(signal))
        write_table(directory, "profiles", {"step": measured, "signal_grad": signal})
    return Run(directory)


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """The empty folder outputs/ of the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    return tmp_path / "outputs"


ACCURACIES = {  # by depth and skip, for the seeds 0, 1, 2
    (4, "none"): (0.90, 0.92, 0.94),
    (16, "none"): (0.60, 0.70, 0.65),
    (64, "none"): (0.10, 0.10, 0.10),
    (4, "identity"): (0.91, 0.93, 0.95),
    (16, "identity"): (0.92, 0.94, 0.96),
    (64, "identity"): (0.95, 0.97, 0.96),
}


def geometric(first, last, layers):
    return np.geomspace(first, last, layers + 1)


def t_interval(values):
    """The 95 % interval of a mean by SciPy."""
    mean = np.mean(values)
    error = stats.sem(values)
    freedom = len(values) - 1
    return stats.t.interval(0.95, freedom, loc=mean, scale=error)


def ends_of(summary):
    """The interval of a summary."""
    return summary.low, summary.high


@pytest.fixture(scope="session")
def recorded_sweep(tmp_path_factory):
    """Three depths, two shortcuts, three seeds; one run diverged, one was never trained."""
    outputs = tmp_path_factory.mktemp("sweep") / "outputs"
    for (depth, skip), accuracies in ACCURACIES.items():
        for seed, accuracy in enumerate(accuracies):
            if (depth, skip, seed) == (64, "identity", 2):
                continue
            diverged = (depth, skip, seed) == (16, "none", 2)
            name = f"depth={depth},skip={skip},seed={seed}"
            factor = 0.5 if skip == "none" else 1.0
            measured_factor = factor * (1 + 0.01 * seed)
            final = {"eval_accuracy": accuracy, "train_loss": 1 - accuracy}
            profile = geometric(factor ** (depth / 2), 1.0, depth)
            profile *= 1 + 0.1 * seed
            write_run(
                outputs / "study" / name,
                {"model.depth": depth, "skip.kind": skip, "seed": seed},
                status="diverged" if diverged else "done",
                final={} if diverged else final,
                verdict={
                    "kind": "diverged" if diverged else "healthy",
                    "theory": factor,
                    "initial": {"kind": "healthy", "factor_per_layer": measured_factor},
                },
                loss=np.geomspace(2, 1 - accuracy + 0.01, STEPS),
                signal=np.stack([profile, 2 * profile]),
            )
    return outputs


@pytest.fixture
def sweep(recorded_sweep, monkeypatch):
    """The recorded sweep, which must not change, as outputs/ of the current directory."""
    monkeypatch.chdir(recorded_sweep.parent)
    return recorded_sweep


@pytest.fixture
def own_sweep(recorded_sweep, outputs):
    """A copy of the recorded sweep, to which figures can be written."""
    shutil.copytree(recorded_sweep, outputs, dirs_exist_ok=True)
    return outputs
