"""Taking a run up where its last checkpoint left it: its state, and the rows of its record up to there."""

import sys
from functools import partial
from typing import Any

import jax

from research.job import Job
from research.member import Member
from research.records.parts import Columns, Damaged
from research.records.record import Record
from research.training.checkpoint import Checkpoint, Checkpoints, Form, Unusable, form
from research.training.program import make_program

RECALLED = ("metrics", "profiles", "inspections")  # what a run is judged by, and what trackers are sent


def take_up(member: Member, job: Job, described: dict[str, Any]) -> tuple[Record, Checkpoint | None, list[Columns]]:
    """Opens a run's record: at its last checkpoint where an earlier attempt left one, else empty.

    Returns:
        The record; the checkpoint or None; the rows of ``RECALLED`` that the record holds.

    Raises:
        ValueError: where another process is writing the run.
    """
    checkpoints = Checkpoints(member.directory)
    try:
        checkpoint = checkpoints.read(partial(_form, job))
        if checkpoint is None:
            return Record(member.directory, described), None, []
        return _opened(member, checkpoint, described)
    except (Unusable, Damaged) as error:
        record = Record(member.directory, described)  # from here on no other process looks at the checkpoints
        checkpoints.remove()
        print(f"fathom: {member.directory.name} begins anew, its checkpoint is of no use: {error}", file=sys.stderr)
        return record, None, []


def _opened(
    member: Member, checkpoint: Checkpoint, described: dict[str, Any]
) -> tuple[Record, Checkpoint, list[Columns]]:
    notes = checkpoint.notes
    if (notes.get("id"), notes.get("data")) != (described["id"], described["data"]["fingerprint"]):
        raise Unusable("it is of another run" if notes.get("id") != described["id"] else "the data are others now")
    resumed = {"resumed": [*notes["resumed"], checkpoint.step]}
    record = Record(member.directory, described | resumed, kept=notes["rows"])
    try:
        recalled = [record.read(table) for table in RECALLED]
    except Damaged:
        record.release()
        raise
    return record, checkpoint, recalled


def _form(job: Job) -> Form:
    return form(jax.eval_shape(make_program(job.spec, job.layout).init, job.hp))
