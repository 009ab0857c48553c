"""Finds the run that a longer run can go on from: the same but for its number of steps. No jax.

A run is the same if its id is the one that the longer run would have with its number of steps.
"""

import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.records.record import TABLES, read_info
from research.records.run_info import DamagedRecord
from research.records.runs import Run
from research.runner.completion import CHECKPOINTS
from research.runner.run_spec import RunSpec, identity_of, recorded_ids, run_id


@dataclass(frozen=True)
class ShorterRun:
    """A finished run that kept its state.

    Attributes:
        directory: its directory.
        ids: the ids that it was recorded by.
        steps: its number of steps.
    """

    directory: Path
    ids: tuple[str, ...]
    steps: int


def find_shorter_run(run_spec: RunSpec, steps: int) -> ShorterRun | None:
    """The longest of the runs of a study that differ from a run in having fewer steps alone.

    Args:
        run_spec: the run.
        steps: its number of steps.
    """
    longest = None
    for directory in _directories_with_state(run_spec.directory.parent):
        shorter = _as_shorter_run(directory, run_spec)
        if shorter is None or shorter.steps >= steps:
            continue
        if longest is None or shorter.steps > longest.steps:
            longest = shorter
    return longest


def copy_rows(shorter: ShorterRun, directory: Path) -> None:
    """Copies the part files of a run, which its checkpoint knows, into the directory of another."""
    for table in TABLES:
        source = shorter.directory / f"{table}.parts"
        target = directory / f"{table}.parts"
        shutil.rmtree(target, ignore_errors=True)
        if source.is_dir():
            shutil.copytree(source, target)


def _directories_with_state(study: Path) -> list[Path]:
    with os.scandir(study) as entries:
        directories = [Path(entry.path) for entry in entries]
    return [directory for directory in directories if (directory / CHECKPOINTS).is_dir()]


def _as_shorter_run(directory: Path, run_spec: RunSpec) -> ShorterRun | None:
    info = read_info(directory)
    if not info or info.get("status") != "done" or not isinstance(info.get("steps"), int):
        return None
    try:
        recorded = Run(directory).config
    except DamagedRecord:
        return None
    duration: dict[str, Any] = {}
    for name in ("steps", "epochs"):
        duration[name] = recorded.get(f"train.{name}")
    train = dataclasses.replace(run_spec.config.train, **duration)
    config = dataclasses.replace(run_spec.config, train=train)
    study = run_spec.directory.absolute().parent.name
    if run_id(study, config) != identity_of(directory, info):
        return None
    return ShorterRun(directory, recorded_ids(info), info["steps"])
