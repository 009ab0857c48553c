"""Measures and trains all configurations of this experiment, program by program.

    python experiments/predict/corpus.py FOLDER [fit | held_out]

What has been measured and trained already is in FOLDER and is not repeated.
"""

import pickle
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from declared import CHANCE, END, MARGIN
from design import Arm, draw, to_config

from research.records.runs import Run
from research.runner.preflight import measure_configs
from research.runner.run_spec import RunSpec
from research.runner.session import Session, prepare_jax, train_group

TRIAL_STEPS = 20


def final_loss(run: Run) -> float:
    """The mean training loss over the last tenth of the steps; NaN where the run diverged."""
    if run.status != "done":
        return float("nan")
    losses = np.asarray(run.metrics["train_loss"], float)
    return float(losses[-max(1, round(END * len(losses))) :].mean())


def has_trained(loss: float) -> bool:
    """Whether a final loss is better than chance by the declared margin."""
    return loss <= (1 - MARGIN) * CHANCE


def work_on(arms: Sequence[Arm], folder: Path) -> None:
    """Measures and trains the runs of a program."""
    configs = [to_config(arm) for arm in arms]
    started_at = time.process_time()
    measured = measure_configs(configs, TRIAL_STEPS)
    measured_at = time.process_time()
    specs = []
    for place, config in enumerate(configs):
        specs.append(RunSpec(config, folder / f"run{place}"))
    train_group(specs, Session())
    losses = [final_loss(Run(spec.directory)) for spec in specs]
    result = {
        "arms": list(arms),
        "measured": measured,
        "losses": losses,
        "measuring_seconds": (measured_at - started_at) / len(arms),
        "training_seconds": (time.process_time() - measured_at) / len(arms),
    }
    (folder / "result.pickle").write_bytes(pickle.dumps(result))


def main(words: Sequence[str]) -> None:
    """Works through the programs of the purposes that are named."""
    prepare_jax()
    folder = Path(words[0])
    for purpose in words[1:] or ("fit", "held_out"):
        programs = draw(purpose)
        for number, arms in enumerate(programs):
            place = folder / f"{purpose}{number:02}"
            if (place / "result.pickle").exists():
                continue
            place.mkdir(parents=True, exist_ok=True)
            started_at = time.time()
            try:
                work_on(arms, place)
            except Exception:
                traceback.print_exc()
            seconds = time.time() - started_at
            print(purpose, number, arms[0]["model"], f"{seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
