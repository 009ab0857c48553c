"""Opens the record of a run: empty, or as an earlier attempt left it at its last checkpoint."""

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from research.records.record import Lock, RunRecord
from research.records.table_writer import Columns, CorruptTable
from research.runner.run_setup import RunSetup
from research.runner.run_spec import RunSpec, read_ended
from research.training.checkpoint import (
    ArraySpecs,
    Checkpoint,
    Checkpoints,
    InvalidCheckpoint,
    array_specs,
)
from research.training.program import make_program


class AlreadyFinished(ValueError):
    """Another process has trained the run in the meantime; ``info`` is its ``run.json``."""

    def __init__(self, run_spec: RunSpec, info: dict[str, Any]):
        super().__init__(
            f"{run_spec.directory} was trained by another process in the meantime; "
            "the same command shows the result"
        )
        self.info = info


@dataclass(frozen=True)
class EarlierRows:
    """The rows that an earlier attempt recorded up to its last checkpoint, as columns."""

    metrics: Columns
    profiles: Columns
    inspections: Columns


@dataclass(frozen=True)
class OpenedRun:
    """A run whose record is open; where it resumes, with its checkpoint and its earlier rows."""

    record: RunRecord
    checkpoint: Checkpoint | None = None
    earlier_rows: EarlierRows | None = None


def open_run(
    run_spec: RunSpec,
    setup: RunSetup,
    info: dict[str, Any],
) -> OpenedRun:
    """Locks a run and opens its record, at the last checkpoint where there is one.

    Args:
        run_spec: the run.
        setup: what the runs of the group are trained with.
        info: the initial ``run.json``.

    Raises:
        RunLocked: another process is writing the run.
        AlreadyFinished: another process has finished the run since the caller looked.
    """
    run_spec.directory.mkdir(parents=True, exist_ok=True)
    # Locked before anything is read or written, so that no other attempt can change it in between.
    lock = Lock(run_spec.directory)
    try:
        finished = read_ended(run_spec)
        if finished:
            raise AlreadyFinished(run_spec, finished)
        run_spec.write_files()
        return _open_locked_run(lock, setup, info)
    except BaseException:
        lock.release()
        raise


def _open_locked_run(
    lock: Lock,
    setup: RunSetup,
    info: dict[str, Any],
) -> OpenedRun:
    checkpoints = Checkpoints(lock.directory)
    try:
        checkpoint = checkpoints.read(partial(_expected_specs, setup, info["layers"]))
        if checkpoint:
            return _resume_run(lock, checkpoint, info)
    except (InvalidCheckpoint, CorruptTable) as error:
        checkpoints.remove()
        print(
            f"fathom: {lock.directory.name} starts from step 0, "
            f"because its checkpoint cannot be used: {error}",
            file=sys.stderr,
        )
    return OpenedRun(RunRecord(lock, info))


def _resume_run(
    lock: Lock,
    checkpoint: Checkpoint,
    info: dict[str, Any],
) -> OpenedRun:
    notes = checkpoint.notes
    if notes.get("id") != info["id"]:
        raise InvalidCheckpoint("it belongs to another run")
    if notes.get("data") != info["data"]["fingerprint"]:
        raise InvalidCheckpoint("the data have changed")
    resumed = {"resumed": [*notes["resumed"], checkpoint.step]}
    record = RunRecord(lock, info | resumed, keep_rows=notes["rows"])
    earlier_rows = EarlierRows(
        metrics=record.read("metrics"),
        profiles=record.read("profiles"),
        inspections=record.read("inspections"),
    )
    return OpenedRun(record, checkpoint, earlier_rows)


def _expected_specs(setup: RunSetup, layers: int) -> ArraySpecs:
    program = make_program(setup.program_config, setup.layout)
    shapes = jax.eval_shape(program.init, setup.hp)
    return array_specs(shapes, setup.program_config.architecture, layers)
