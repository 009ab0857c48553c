"""Recorded runs with made-up numbers, written as a training writes them."""

from pathlib import Path

import numpy as np
import yaml

from research.config.schema import to_dict
from research.records.record import Lock, RunRecord

from ..builders import make_config

STEPS = 40
EVERY = 4


def record_run(
    directory: Path,
    changes: dict | None = None,
    *,
    layers: int = 6,
    status: str = "done",
    **info: object,
) -> Path:
    """Writes a run whose gradient shrinks by 1/2 a layer at the first step, and less later on.

    Args:
        directory: its directory.
        changes: its settings; see ``make_config``.
        layers: the layers N of its network.
        status: how it ended; ``running`` leaves it as a process that still trains it.
        **info: further entries of ``run.json``.
    """
    directory.mkdir(parents=True)
    (directory / ".hydra").mkdir()
    config = to_dict(make_config(changes))
    (directory / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    lock = Lock(directory)
    seed = (changes or {}).get("seed", 0)
    first = {"id": f"{abs(hash(directory.name)):012x}"[:12], "seed": seed, "layers": layers}
    record = RunRecord(lock, first | info)
    record.add(*make_rows(np.arange(STEPS), layers, seed))
    if status == "running":
        record.flush()
        record.release()
        return directory
    accuracy = 0.9 - 0.01 * seed
    record.close(
        status=status,
        steps=STEPS,
        final={
            "train_loss": 0.5,
            "train_accuracy": 0.9,
            "eval_loss": 0.6,
            "eval_accuracy": accuracy,
        },
        verdict={
            "kind": "vanishing",
            "sentence": "vanishing: the first layer receives little",
            "factor_per_layer": 0.5,
            "findings": [{"sentence": "Half the units are dead.", "advice": "try activation=elu."}],
        },
    )
    record.release()
    return directory


def make_rows(steps: np.ndarray, layers: int, seed: int) -> tuple[dict, dict]:
    """Rows of metrics and profiles for some steps."""
    loss = (2 + seed) * np.exp(-steps / 20)
    evaluation = np.ma.masked_array(loss, steps % 10 != 9)
    metrics = {"step": steps, "train_loss": loss, "eval_loss": evaluation}
    measured = steps[steps % EVERY == 0]
    distance = np.arange(layers, -1, -1.0)
    factors = 0.5 + 0.4 * measured / STEPS
    signal = factors[:, None] ** distance
    profiles = {"step": measured, "signal_grad": signal, "grad_norm": signal[:, :-1]}
    return metrics, profiles
