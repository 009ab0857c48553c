"""Trains the first three changes that unhealthy test runs are advised: ``advice.csv``.

    python experiments/verdict_benchmark/advice.py [DIRECTORY]

takes the runs of ``fathom reproduce verdict_benchmark`` from DIRECTORY, by default
``outputs/verdict_benchmark``. Of each family it tries two runs, drawn at random with a fixed seed.
What came of it is kept in their directories too, where ``fathom figure`` finds it.
"""

import csv
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research.records.runs import Run
from research.records.tried import Tried, read_tried, write_tried
from research.reproduce.experiments import finished_runs, load_module
from research.runner.session import Session
from research.sweeps.remedies import Trial, advised_changes, plan_trials, summarize, train_trials

LABELS = load_module("verdict_benchmark", "labels")
FILE = "advice.csv"
RUNS_OF_FAMILY = 2
FIRST_CHANGES = 3
SEED = 0


def draw_sample(runs: Sequence[Run], labels: Sequence[Any]) -> list[Run]:
    """Two unhealthy test runs of each family, in the order of the sweep.

    Args:
        runs: all runs.
        labels: their labels, in the same order.
    """
    by_family: dict[str, list[int]] = {}
    for number, label in enumerate(labels):
        if label.split == "test" and label.is_unhealthy:
            by_family.setdefault(label.family, []).append(number)
    chosen = []
    for family, numbers in by_family.items():
        generator = random.Random(f"{SEED} {family}")
        chosen.extend(generator.sample(numbers, min(RUNS_OF_FAMILY, len(numbers))))
    return [runs[number] for number in sorted(chosen)]


def plan(runs: Sequence[Run], root: Path) -> dict[int, list[Trial]]:
    """The unchanged run and its first changes, by the position of the run.

    Runs that are advised nothing are left out.

    Args:
        runs: the sample.
        root: the folder of all studies.
    """
    trials = {}
    for number, run in enumerate(runs):
        try:
            trials[number] = plan_trials(run, root)[: 1 + FIRST_CHANGES]
        except ValueError as error:
            print(error)
    return trials


def write_results(runs: Sequence[Run], file: Path) -> None:
    """Writes what came of each change, in the order in which they are advised."""
    columns = ["run", "verdict", "unchanged_loss"]
    for number in range(1, FIRST_CHANGES + 1):
        columns.extend([f"change_{number}", f"loss_{number}", f"result_{number}"])
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        for run in runs:
            tried = read_tried(run.directory)
            row = {"run": run.directory.name, "verdict": run.info["verdict"]["kind"]}
            writer.writerow(row | (_results(run, tried) if tried else {}))


def _results(run: Run, tried: Tried) -> dict[str, Any]:
    by_change = {change.change: change for change in tried.changes}
    row: dict[str, Any] = {"unchanged_loss": f"{tried.unchanged.mean_loss:.4g}"}
    trained = [change for change, _ in advised_changes(run) if change in by_change]
    for number, name in enumerate(trained, start=1):
        change = by_change[name]
        row[f"change_{number}"] = name
        row[f"loss_{number}"] = f"{change.mean_loss:.4g}"
        row[f"result_{number}"] = change.result(tried.unchanged)
    return row


def main(directory: Path) -> None:
    """Tries the advice of the sample."""
    runs = finished_runs("verdict_benchmark", directory)
    sample = draw_sample(runs, LABELS.frozen_labels())
    trials = plan(sample, directory.parent)
    session = Session()
    everything = [trial for of_run in trials.values() for trial in of_run]
    with session.progress:
        results = train_trials(everything, session)
    for number, of_run in trials.items():
        write_tried(sample[number].directory, summarize(of_run, results))
    write_results(sample, Path(__file__).parent / FILE)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/verdict_benchmark"))
