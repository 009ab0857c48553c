"""Taking a run up where its last checkpoint left it: its state, and the rows of its record up to there."""

import sys
from functools import partial
from typing import Any

import jax

from research.records.record import Lock, RunRecord
from research.records.table_writer import Columns, CorruptTable
from research.runner.run_setup import RunSetup
from research.runner.run_spec import RunSpec, read_ended
from research.training.checkpoint import Checkpoint, Checkpoints, Form, InvalidCheckpoint, form
from research.training.program import make_program

RECALLED = (
    "metrics",
    "profiles",
    "inspections",
)  # what a run is judged by, and what trackers are sent


class AlreadyFinished(ValueError):
    """Another process has trained the run to its end in the meantime; ``info`` is its ``run.json``."""

    def __init__(self, member: RunSpec, info: dict[str, Any]):
        super().__init__(
            f"{member.directory} was trained by another process just now: the same command shows it"
        )
        self.info = info


def take_up(
    member: RunSpec, job: RunSetup, described: dict[str, Any]
) -> tuple[RunRecord, Checkpoint | None, list[Columns]]:
    """Locks a run and opens its record: at its last checkpoint where an earlier attempt left one, else empty.

    Returns:
        The record; the checkpoint or None; the rows of ``RECALLED`` that the record holds.

    Raises:
        Taken: where another process is writing the run.
        Ended: where one has done so since this one looked.
    """
    member.directory.mkdir(parents=True, exist_ok=True)
    lock = Lock(
        member.directory
    )  # before anything is looked at or written: it is all of one attempt from here on
    try:
        info = read_ended(member)
        if info:
            raise AlreadyFinished(member, info)
        member.begin()
        return _opened(lock, job, described)
    except BaseException:
        lock.release()
        raise


def _opened(
    lock: Lock, job: RunSetup, described: dict[str, Any]
) -> tuple[RunRecord, Checkpoint | None, list[Columns]]:
    checkpoints = Checkpoints(lock.directory)
    try:
        checkpoint = checkpoints.read(partial(_form, job))
        if checkpoint is None:
            return RunRecord(lock, described), None, []
        return _gone_on(lock, checkpoint, described)
    except (InvalidCheckpoint, CorruptTable) as error:
        checkpoints.remove()
        print(
            f"fathom: {lock.directory.name} begins anew, its checkpoint is of no use: {error}",
            file=sys.stderr,
        )
        return RunRecord(lock, described), None, []


def _gone_on(
    lock: Lock, checkpoint: Checkpoint, described: dict[str, Any]
) -> tuple[RunRecord, Checkpoint, list[Columns]]:
    notes = checkpoint.notes
    if (notes.get("id"), notes.get("data")) != (described["id"], described["data"]["fingerprint"]):
        raise InvalidCheckpoint(
            "it is of another run"
            if notes.get("id") != described["id"]
            else "the data are others now"
        )
    resumed = {"resumed": [*notes["resumed"], checkpoint.step]}
    record = RunRecord(lock, described | resumed, keep_rows=notes["rows"])
    return record, checkpoint, [record.read(table) for table in RECALLED]


def _form(job: RunSetup) -> Form:
    return form(jax.eval_shape(make_program(job.spec, job.layout).init, job.hp))
