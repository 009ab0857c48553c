"""Measures and trains all configurations of this experiment, program by program.

    python experiments/predict/corpus.py FOLDER

writes ``corpus.csv``. What has been measured and trained already is in FOLDER and is not repeated;
several processes may share the work.
"""

import csv
import os
import pickle
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from research.diagnosis.features import measure_features
from research.records.runs import Run
from research.reproduce.experiments import load_module
from research.runner.preflight import measure_configs
from research.runner.run_spec import RunSpec
from research.runner.session import Session, prepare_jax, train_group

declared = load_module("predict", "declared")
design = load_module("predict", "design")
TRIAL_STEPS = 20
RESULT = "result.pickle"
MEASURED = "measured.pickle"
CLAIM = "process"  # holds the number of the process that works on a program


def final_loss(run: Run) -> float:
    """The mean training loss over the last tenth of the steps; NaN where the run diverged."""
    if run.status != "done":
        return float("nan")
    return declared.final_loss(np.asarray(run.metrics["train_loss"], float))


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
    train_group(specs, Session())
    losses = [final_loss(Run(spec.directory)) for spec in specs]
    result = {
        "arms": list(arms),
        "measured": measured,
        "losses": losses,
        "measuring_seconds": measuring_seconds,
        "training_seconds": (time.process_time() - measured_at) / len(arms),
    }
    (folder / RESULT).write_bytes(pickle.dumps(result))


def is_taken(place: Path) -> bool:
    """Whether a program is done, or another process works on it."""
    if (place / RESULT).exists():
        return True
    claim = place / CLAIM
    if not claim.exists():
        return False
    process = Path("/proc") / claim.read_text()
    return process.exists()


def write_table(folder: Path) -> None:
    """Writes ``corpus.csv``: settings, final loss, seconds and features of all that is done."""
    lines = []
    for file in sorted(folder.glob(f"*/{RESULT}")):
        result = pickle.loads(file.read_bytes())
        purpose = file.parent.name.rstrip("0123456789")
        seconds = result["measuring_seconds"]
        runs = zip(result["arms"], result["measured"], result["losses"], strict=True)
        for arm, measured, loss in runs:
            line = {
                "purpose": purpose,
                "program": file.parent.name,
                "settings": " ".join(f"{path}={value}" for path, value in arm.items()),
                "final_loss": f"{loss:.4g}",
                "measuring_seconds": f"{seconds:.2f}",
            }
            for name, value in measure_features(measured).items():
                line[name] = f"{value:.4g}"
            lines.append(line)
    with Path(__file__).with_name("corpus.csv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


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
        (place / CLAIM).write_text(str(os.getpid()))
        started_at = time.time()
        try:
            work_on(arms, place)
        except Exception:
            traceback.print_exc()
        print(name, arms[0]["model"], f"{time.time() - started_at:.1f} s", flush=True)
    write_table(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
