"""Measures and trains all configurations of this experiment, program by program.

    python experiments/predict/corpus.py FOLDER

writes ``corpus.csv``. What has been measured and trained already is in FOLDER and is not repeated;
several processes may share the work.
"""

import os
import pickle
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from research.records.runs import Run
from research.reproduce.experiments import load_module
from research.runner.preflight import measure_configs
from research.runner.run_spec import RunSpec
from research.runner.session import Session, prepare_jax, train_group

declared = load_module("predict", "declared")
design = load_module("predict", "design")
table = load_module("predict", "table")
TRIAL_STEPS = 20
MEASURED = "measured.pickle"
CLAIM = "process"  # holds the number of the process that works on a program


def final_loss(run: Run) -> float:
    """The mean training loss over the last tenth of the steps; NaN where the run diverged.

    Raises:
        ValueError: the run was interrupted, so nothing is known of its end.
    """
    match run.status:
        case "done":
            return declared.final_loss(np.asarray(run.metrics["train_loss"], float))
        case "diverged":
            return float("nan")
    raise ValueError(f"{run.directory} is {run.status}: train it to its end")


def work_on(arms: Sequence[dict[str, str]], folder: Path) -> None:
    """Measures and trains the runs of a program."""
    configs = [design.to_config(arm) for arm in arms]
    started_at = time.process_time()
    if (folder / MEASURED).exists():
        measured, measuring_seconds = pickle.loads((folder / MEASURED).read_bytes())
    else:
        measured = measure_configs(configs, TRIAL_STEPS)
        measuring_seconds = (time.process_time() - started_at) / len(arms)
        (folder / MEASURED).write_bytes(pickle.dumps((measured, measuring_seconds)))
    measured_at = time.process_time()
    specs = []
    for place, config in enumerate(configs):
        specs.append(RunSpec(config, folder / f"run{place}"))
    for trained in train_group(specs, Session()):
        if "error" in trained:
            raise trained["error"]
    losses = [final_loss(Run(spec.directory)) for spec in specs]
    result = {
        "arms": list(arms),
        "measured": measured,
        "losses": losses,
        "measuring_seconds": measuring_seconds,
        "training_seconds": (time.process_time() - measured_at) / len(arms),
    }
    (folder / table.RESULT).write_bytes(pickle.dumps(result))


def is_taken(place: Path) -> bool:
    """Whether a program is done, or another process works on it."""
    if (place / table.RESULT).exists():
        return True
    claim = place / CLAIM
    if not claim.exists():
        return False
    process = Path("/proc") / claim.read_text(encoding="utf-8")
    return process.exists()


def main(words: Sequence[str]) -> None:
    """Works through all programs, those of both sets in turn."""
    prepare_jax()
    folder = Path(words[0])
    programs = []
    for purpose in ("fit", "held_out"):
        drawn = design.draw(purpose)
        for number, arms in enumerate(drawn):
            programs.append((number / len(drawn), f"{purpose}{number:02}", arms))
    programs.sort()
    for _, name, arms in programs:
        place = folder / name
        if is_taken(place):
            continue
        place.mkdir(parents=True, exist_ok=True)
        (place / CLAIM).write_text(str(os.getpid()), encoding="utf-8")
        started_at = time.time()
        try:
            work_on(arms, place)
        except Exception:
            traceback.print_exc()
        print(name, arms[0]["model"], f"{time.time() - started_at:.1f} s", flush=True)
    table.write_table(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
