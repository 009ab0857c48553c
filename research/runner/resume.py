"""Opens the record of a run: empty, or as an earlier attempt left it at its last checkpoint."""

import dataclasses
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.gauges.table import MetricSource, metric_names
from research.records.jax_settings import describe_changed_settings
from research.records.record import Lock, RunRecord, read_info, report_replaced_rows
from research.records.run_info import DamagedRecord
from research.records.runs import INSPECTIONS, METRICS, PROFILES, Run
from research.records.table_writer import Columns, CorruptTable
from research.runner.checkpoint_notes import CheckpointNotes, InvalidNotes, explain_unusable
from research.runner.longer_runs import copy_rows, find_shorter_run
from research.runner.run_setup import RunSetup
from research.runner.run_spec import RunSpec, read_ended, recorded_ids
from research.training.checkpoint import (
    ArraySpecs,
    Checkpoint,
    Checkpoints,
    InvalidCheckpoint,
    array_specs,
)
from research.training.optimizers import depends_on_length
from research.training.program import make_program

# What a checkpoint that cannot be used raises, so that the run starts from the beginning.
UNUSABLE = (InvalidCheckpoint, InvalidNotes, CorruptTable)


class AlreadyFinished(ValueError):
    """Another process has trained the run in the meantime; ``info`` is its ``run.json``."""

    def __init__(self, run_spec: RunSpec, info: dict[str, Any]):
        super().__init__(
            f"{run_spec.directory} was trained by another process in the meantime; "
            "the same command shows the result"
        )
        self.info = info


class SettingsChanged(ValueError):
    """A run would go on with other numbers than it began with; ``changes`` says which settings."""

    def __init__(self, directory: Path, changes: str):
        super().__init__(
            f"{directory} began under settings of JAX that give other numbers ({changes}): "
            "set them as they were to go on, or give another name="
        )
        self.changes = changes


@dataclass(frozen=True)
class EarlierRows:
    """The rows that an earlier attempt recorded up to its last checkpoint, as columns."""

    metrics: Columns
    profiles: Columns
    inspections: Columns


@dataclass(frozen=True)
class OpenedRun:
    """A run whose record is open; where it resumes, with its checkpoint and its earlier rows.

    Attributes:
        num_replaced_steps: the steps that an earlier attempt has recorded without a checkpoint from
            which to go on. They are trained again.
    """

    record: RunRecord
    checkpoint: Checkpoint | None = None
    notes: CheckpointNotes | None = None
    earlier_rows: EarlierRows | None = None
    num_replaced_steps: int = 0


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
        SettingsChanged: its checkpoint was written under other settings of JAX.
    """
    run_spec.directory.mkdir(parents=True, exist_ok=True)
    # Locked before anything is read or written, so that no other attempt can change it in between.
    lock = Lock(run_spec.directory)
    try:
        finished = read_ended(run_spec)
        if finished:
            raise AlreadyFinished(run_spec, finished)
        run_spec.write_files()
        return _open_locked_run(lock, run_spec, setup, info)
    except BaseException:
        lock.release()
        raise


def _open_locked_run(
    lock: Lock,
    run_spec: RunSpec,
    setup: RunSetup,
    info: dict[str, Any],
) -> OpenedRun:
    checkpoints = Checkpoints(lock.directory)
    num_replaced_steps = 0
    try:
        checkpoint = checkpoints.read(partial(_expected_specs, setup, info["layers"]))
        if checkpoint:
            return _resume_run(
                lock,
                checkpoint,
                setup,
                info,
                written_by=recorded_ids(info),
                written_in=lock.directory,
            )
    except UNUSABLE as error:
        checkpoints.remove()
        print(
            f"fathom: {lock.directory.name} starts from step 0, "
            f"because its checkpoint cannot be used: {explain_unusable(error, lock.directory)}",
            file=sys.stderr,
        )
    else:
        report_replaced_rows(lock.directory)
        num_replaced_steps = _count_recorded_steps(lock.directory)
    continued = _continue_shorter_run(lock, run_spec, setup, info)
    return continued or OpenedRun(RunRecord(lock, info), num_replaced_steps=num_replaced_steps)


def _count_recorded_steps(directory: Path) -> int:
    """The steps that an earlier attempt has recorded; 0 where ``run.json`` does not tell."""
    try:
        return Run(directory).num_steps
    except DamagedRecord:
        return 0


def _continue_shorter_run(
    lock: Lock,
    run_spec: RunSpec,
    setup: RunSetup,
    info: dict[str, Any],
) -> OpenedRun | None:
    """Opens the record at the end of a run of fewer steps that kept its state; None without one.

    Its rows are copied, so that the shorter run stays as it is.
    """
    shorter = find_shorter_run(run_spec, setup.steps)
    if shorter is None:
        return None
    fault = ""
    if depends_on_length(run_spec.config.optimizer):
        schedule = run_spec.config.optimizer.schedule.name
        fault = f"optimizer.schedule={schedule} depends on the length of the run"
    elif run_spec.config.diagnose.stop:
        fault = "diagnose.stop decides at steps that depend on the length of the run"
    elif setup.is_compiled_otherwise(shorter.steps):
        fault = "it is compiled in another way"
    else:
        try:
            checkpoint = Checkpoints(shorter.directory).read(
                partial(_expected_specs, setup, info["layers"])
            )
            if checkpoint is None:
                return None
            copy_rows(shorter, lock.directory)
            origin = {"continues": {"run": shorter.directory.name, "step": checkpoint.step}}
            opened = _resume_run(
                lock,
                checkpoint,
                setup,
                info | origin,
                written_by=shorter.ids,
                written_in=shorter.directory,
            )
            return _without_last_evaluation(opened, setup)
        except UNUSABLE as error:
            fault = f"its state cannot be used: {explain_unusable(error, shorter.directory)}"
        except SettingsChanged as error:
            fault = error.changes
    print(
        f"fathom: {lock.directory.name} starts from step 0 "
        f"and does not continue {shorter.directory.name}, because {fault}",
        file=sys.stderr,
    )
    return None


def _without_last_evaluation(opened: OpenedRun, setup: RunSetup) -> OpenedRun:
    """The run without the evaluation that the shorter run had at its end and the longer has not."""
    checkpoint = opened.checkpoint
    rows = opened.earlier_rows
    assert checkpoint is not None and rows is not None and opened.notes is not None
    if checkpoint.step % setup.eval_every == 0:
        return opened
    metrics = dict(rows.metrics)
    for name in metric_names(MetricSource.EVALUATION):
        values = np.ma.array(metrics[name])
        values[-1] = np.ma.masked
        metrics[name] = values
    opened.record.replace_rows(METRICS, metrics)
    return dataclasses.replace(opened, earlier_rows=dataclasses.replace(rows, metrics=metrics))


def _resume_run(
    lock: Lock,
    checkpoint: Checkpoint,
    setup: RunSetup,
    info: dict[str, Any],
    *,
    written_by: tuple[str, ...],
    written_in: Path,
) -> OpenedRun:
    """Opens the record at a checkpoint, after all that the run will use of it has been compared.

    Args:
        lock: the lock on the run directory, which holds the rows up to the checkpoint.
        checkpoint: the checkpoint.
        setup: what the run is trained with.
        info: the initial ``run.json``.
        written_by: the ids of the run that wrote the checkpoint.
        written_in: the directory of that run.
    """
    notes = CheckpointNotes.from_json(checkpoint.notes, checkpoint.step)
    if notes.id not in written_by:
        raise InvalidCheckpoint("it belongs to another run")
    if notes.data != info["data"]["fingerprint"]:
        raise InvalidCheckpoint("the data have changed")
    if checkpoint.step > setup.steps:
        raise InvalidCheckpoint(f"it is of step {checkpoint.step} of {setup.steps}")
    if checkpoint.arrays["step"] != checkpoint.step:
        raise InvalidCheckpoint("its state is of another step")
    changes = describe_changed_settings(notes.jax_settings, info["jax_settings"])
    if changes:
        raise SettingsChanged(lock.directory, changes)
    earlier_version = _read_jax_version(written_in)
    resumed = {"resumed": [*notes.resumed, checkpoint.step]}
    record = RunRecord(lock, info | resumed, keep_rows=notes.rows)
    if record.part_checksums() != notes.part_checksums:
        raise InvalidCheckpoint("the rows of the record have changed since it was written")
    earlier_rows = EarlierRows(
        metrics=record.read(METRICS),
        profiles=record.read(PROFILES),
        inspections=record.read(INSPECTIONS),
    )
    if not np.array_equal(earlier_rows.metrics["step"], np.arange(checkpoint.step)):
        raise InvalidCheckpoint("the rows of the record are of other steps")
    _tell_other_version(lock.directory, info, earlier_version)
    return OpenedRun(record, checkpoint, notes, earlier_rows)


def _read_jax_version(directory: Path) -> str | None:
    """The version of JAX that a run was last trained under; None if it is not recorded."""
    versions = (read_info(directory) or {}).get("versions")
    return versions.get("jax") if isinstance(versions, dict) else None


def _tell_other_version(
    directory: Path,
    info: dict[str, Any],
    earlier_version: str | None,
) -> None:
    """Says on the terminal that a run goes on under another version of JAX than it began under."""
    now = info["versions"]["jax"]
    if earlier_version not in (None, now):
        print(
            f"fathom: {directory.name} began under JAX {earlier_version} and goes on under {now}, "
            "so its last digits may differ from those of a run without interruption",
            file=sys.stderr,
        )


def _expected_specs(setup: RunSetup, layers: int) -> ArraySpecs:
    program = make_program(setup.program_config, setup.layout)
    shapes = jax.eval_shape(program.init, setup.hp)
    return array_specs(shapes, setup.program_config.architecture, layers)
