"""Runs that are trained as one program, seen from the host: each has a record of its own and an end of its own."""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import jax
import numpy as np

from research.parallel.processes import broadcast_arrays, is_primary
from research.runner.progress import Progress
from research.runner.resume import AlreadyFinished
from research.runner.run_setup import RunSetup
from research.runner.run_spec import Result, RunSpec
from research.runner.run_writer import RunWriter
from research.training.checkpoint import Arrays, Checkpoint, Writer, fetch
from research.training.state import TrainState


class CheckpointStepMismatch(Exception):
    """Members that go on from different steps; ``parts`` are those that can be trained together."""

    def __init__(self, parts: list[list[RunSpec]]):
        super().__init__(parts)
        self.parts = parts


class RunGroup:
    """The members of a group while they last; what befalls one of them leaves the others."""

    def __init__(self, members: Sequence[RunSpec], job: RunSetup, progress: Progress):
        self.job = job
        self.progress = progress
        self.results: list[Result] = [{"directory": str(member.directory)} for member in members]
        self.patience = (
            len(members) ** 0.5
        )  # the host's work grows with each look and each member: look less often
        self.begin = 0  # the step that the runs go on from
        self._members = members
        self._open = dict[int, RunWriter]()
        self._writer = Writer(members[0].config.checkpoint.every)
        self._began = self._trained = time.monotonic()
        self._fetched = 0, self._began  # steps whose rows have arrived, and when the last did
        for lane, member in enumerate(members):
            try:
                self._open[lane] = RunWriter(member, job, len(members))
                self._open[lane].record.flush_scale = self.patience
            except Exception as error:
                if jax.process_count() > 1:
                    raise
                found = error.info | {"already": True} if isinstance(error, AlreadyFinished) else {}
                self.results[lane] |= found or {"status": "failed", "error": error}

    def __enter__(self) -> "RunGroup":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Whatever ends the group, what was measured is written; an error becomes each open run's own."""
        nothing_yet = (
            self._trained == self._began
        )  # and no tracker knows of it: the runs can begin once more
        too_large = (
            error is not None and is_out_of_memory(error) and nothing_yet and len(self.results) > 1
        )
        if too_large or isinstance(error, CheckpointStepMismatch):
            for recording in self._open.values():
                recording.record.release()
            return False
        for lane in list(self._open):
            self._end(lane, error)
        return isinstance(error, Exception)

    def begin_together(self) -> None:
        """Finds the step that the runs go on from.

        Raises:
            Apart: where they go on from different ones.
        """
        steps = [0] * len(self._members)
        for lane, recording in self._open.items():
            steps[lane] = recording.checkpoint.step if recording.checkpoint else 0
        steps = broadcast_arrays({"steps": np.array(steps, np.int32)})["steps"].tolist()
        if len({steps[lane] for lane in self._open}) > 1:
            parts = {step: [] for step in sorted(steps, reverse=True)}
            for member, step in zip(self._members, steps, strict=True):
                parts[step].append(member)
            raise CheckpointStepMismatch(list(parts.values()))
        self.begin = max(steps)
        self._fetched = self.begin, self._began
        if self.begin:
            self.progress.go_on(self.begin, self.job.steps)

    def checkpoints(self) -> dict[int, Checkpoint]:
        """What the runs go on from, by their place in the group; they are not kept here."""
        found = {
            lane: recording.checkpoint
            for lane, recording in self._open.items()
            if recording.checkpoint
        }
        for recording in self._open.values():
            recording.checkpoint = None
        return found

    @property
    def is_due(self) -> bool:
        """Whether the state behind the present chunk is to be kept."""
        return is_primary() and self._writer.is_due

    @property
    def ended(self) -> bool:
        """Whether no member is left to train."""
        return not self._open

    def count(self, params: Any) -> None:
        """Notes how many parameters each network has, from those of all."""
        parameters = sum(leaf.size // leaf.shape[0] for leaf in jax.tree.leaves(params))
        self._each(lambda _, recording: recording.count(parameters))

    def compiled(self) -> None:
        """The first step is done: from here on time is training time."""
        self._trained = time.monotonic()
        self._each(lambda _, recording: recording.compiled())

    def pace(self) -> float | None:
        """Seconds a step behind the first, from rows that have arrived; None before there are any."""
        steps, when = self._fetched
        steps -= self.begin
        return (when - self._trained) / (steps - 1) if steps > 1 else None

    def take(
        self,
        start: int,
        steps: int,
        rows: dict[str, Any],
        evaluation: dict[str, Any],
        beside: dict[str, Any],
        state: Arrays | None = None,
    ) -> None:
        """Fetches a chunk's rows once and hands each member its own.

        ``beside`` is of its first step; ``state``, behind its last one, is kept.
        """
        # Indexing on the device would queue behind the chunk that it is working on: fetch whole, then cut.
        fetched, held_out, counted = jax.tree.map(np.asarray, (rows, evaluation, beside))

        def hand_over(lane: int, recording: RunWriter) -> None:
            own = jax.tree.map(
                lambda column: column[lane, :steps].copy(), fetched
            )  # not a view: it would keep all
            seen = {name: float(values[lane]) for name, values in held_out.items()}
            recording.take(start, own, seen, jax.tree.map(lambda values: values[lane], counted))

        self._each(hand_over)
        self._fetched = start + steps, time.monotonic()
        lanes = list(self._open)
        if lanes:
            last = {"loss": fetched["train_loss"][:, steps - 1]} | held_out
            means = {name: float(np.mean(values[lanes])) for name, values in last.items()}
            shown = {
                name: value for name, value in means.items() if value == value
            }  # no accuracy of real targets
            self.progress.step(start + steps, self.job.steps, **shown)
        if state:
            self._keep(state)

    def leave(self, state: TrainState) -> None:
        """Keeps the state behind the last rows where they are not the last ones, or where the runs say so."""
        steps = self._fetched[0]
        checkpoint = self._members[0].config.checkpoint
        unfinished = steps < self.job.steps and checkpoint.every is not None
        if is_primary() and steps > self.begin and self._open and (unfinished or checkpoint.keep):
            self._keep(fetch(state))

    def _keep(self, state: Arrays) -> None:
        """Has a checkpoint of each run written that is not at its end."""
        runs = []

        def cut(lane: int, recording: RunWriter) -> None:
            own = {path: array[lane, ...] for path, array in state.items()}
            runs.append(
                (recording.checkpoints, Checkpoint(self._fetched[0], own, recording.notes()))
            )

        self._each(cut)
        self._writer.write(runs)

    def _each(self, act: Callable[[int, RunWriter], None]) -> None:
        for lane, recording in list(self._open.items()):
            try:
                act(lane, recording)
            except Exception as error:
                if jax.process_count() > 1:  # the processes of a run end together
                    raise
                self._end(lane, error)
            else:
                if recording.diverged:
                    self._end(lane)

    def _end(self, lane: int, error: BaseException | None = None) -> None:
        recording = self._open.pop(lane)
        self._writer.wait()
        try:
            recording.close(error)
        except Exception as of_closing:
            error = error or of_closing
        self.results[lane] |= recording.record.info
        if error is not None:
            self.results[lane] |= {"status": "failed", "error": error}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or a device had too little memory."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
