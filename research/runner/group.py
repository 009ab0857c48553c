"""A group of runs that are trained as one program, as the host sees it.

Every run has its own record and its own end: one that fails or diverges leaves the others alone.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from research.config.errors import explain
from research.config.notices import notify
from research.diagnosis.findings import HEALTHY
from research.parallel.processes import broadcast_arrays, is_primary
from research.records.runs import ENDED
from research.records.trackers import TrackerReports
from research.records.trackers.service import stop_service
from research.runner.progress import Progress
from research.runner.resume import AlreadyFinished
from research.runner.run_setup import RunSetup
from research.runner.run_spec import Result, RunSpec
from research.runner.run_writer import RunWriter
from research.runner.signals import RunsInterrupted, delayed, uninterrupted
from research.training.checkpoint import Arrays, Checkpoint, CheckpointWriter, copy_to_host
from research.training.layer_params import trim_layers
from research.training.program import Metrics
from research.training.state import TrainState


class CheckpointStepMismatch(Exception):
    """The runs resume at different steps; ``groups`` holds those that can be trained together."""

    def __init__(self, groups: list[list[RunSpec]]):
        super().__init__(groups)
        self.groups = groups


@dataclass(frozen=True)
class Chunk:
    """The results of consecutive steps of M runs. The device may still be computing them.

    Attributes:
        start: the first step.
        num_steps: the number of steps.
        rows: metrics of each step, [M, capacity, …], of which the first ``num_steps`` rows count.
        evaluation: held-out loss and accuracy after the last step, each [M]; may be empty.
        diagnostics: results of the program's diagnostic functions before the first step, by the
            name of the function, [M, …].
        state: the state after the last step, on the host, where a checkpoint is due.
    """

    start: int
    num_steps: int
    rows: Metrics
    evaluation: Metrics
    diagnostics: Metrics
    state: Arrays | None = None


class RunGroup:
    """Writes the runs of a group, each until it ends.

    Attributes:
        setup: what the runs are trained with.
        results: the result of each run; complete when the group is closed.
        start_step: the step that the runs start from or resume at.
        flush_scale: factor on the flush interval compared with a single run, because the host's
            work grows with the number of runs.
    """

    def __init__(
        self,
        run_specs: Sequence[RunSpec],
        setup: RunSetup,
        progress: Progress,
        reports: TrackerReports | None = None,
    ):
        self.setup = setup
        self.progress = progress
        self.results: list[Result] = []
        self.start_step = 0
        self.flush_scale = len(run_specs) ** 0.5
        self._specs = run_specs
        self._reports = reports or TrackerReports()
        self._writers: list[RunWriter] = []  # of the runs that have not ended
        self._closed: list[RunWriter] = []  # of those whose trackers may still be at work
        self._checkpoint_settings = run_specs[0].config.checkpoint
        self._checkpoint_writer = CheckpointWriter(self._checkpoint_settings.every)
        self._created_at = time.monotonic()
        self._compiled_at = self._created_at
        self._steps_written = 0
        self._written_at = self._created_at
        for index in range(len(run_specs)):
            self._open_run(index)
        self._report_replaced_steps()

    def _open_run(self, index: int) -> None:
        """Opens the record of a run. One that cannot be opened ends here."""
        run_spec = self._specs[index]
        result: Result = {"directory": str(run_spec.directory)}
        self.results.append(result)
        try:
            group_size = len(self._specs)
            writer = RunWriter(
                run_spec,
                self.setup,
                index=index,
                group_size=group_size,
                reports=self._reports,
                report_verdict=self.progress.report_verdict,
            )
        except Exception as error:
            if jax.process_count() > 1:
                raise
            if isinstance(error, AlreadyFinished):
                result.update(error.info, already=True)
            else:
                result.update(status="failed", error=error)
        else:
            writer.record.flush_scale = self.flush_scale
            self._writers.append(writer)

    def _report_replaced_steps(self) -> None:
        """Says that recorded steps are trained again, because there is no checkpoint of them."""
        replaced = [writer for writer in self._writers if writer.num_replaced_steps]
        if len(replaced) == 1:
            name = replaced[0].record.directory.name
            steps = f"the {replaced[0].num_replaced_steps} recorded steps"
            notify(f"{name} starts from step 0, because it has no checkpoint of {steps}")
        elif replaced:
            notify(
                f"{len(replaced)} runs start from step 0, because they have no checkpoint of their "
                "recorded steps"
            )

    def __enter__(self) -> "RunGroup":
        return self

    def __exit__(
        self,
        kind: Any,
        error: BaseException | None,
        trace: Any,
    ) -> bool:
        """Closes the runs that have not ended; an exception becomes the error of each.

        Where the group can be trained in smaller groups instead, the records are released as they
        are and the exception is raised.
        """
        if error and self._can_be_split(error):
            for writer in self._writers:
                writer.record.release()
            self._release_runs()
            return False
        is_interrupted = isinstance(error, KeyboardInterrupt)
        try:
            with uninterrupted():
                for writer in list(self._writers):
                    self._close_run(writer, error)
                self._release_runs()
        except KeyboardInterrupt:
            is_interrupted = True
        if is_interrupted and not self._was_stopped:
            raise RunsInterrupted(self._describe_interruption()) from None
        return isinstance(error, Exception) or is_interrupted

    @property
    def _was_stopped(self) -> bool:
        """Whether the signal came from dashboards, which have ended every run of the group."""
        stopped = [result.get("stopped") or {} for result in self.results]
        return any("by" in each for each in stopped) and all(stopped)

    def _describe_interruption(self) -> str:
        """What became of the runs that were interrupted, to follow the word ``interrupted``."""
        for result in self.results:
            error = result.get("error")
            if isinstance(error, Exception):
                return f", and not everything could be written: {explain(error) or error}"
        statuses = [writer.record.info.get("status") for writer in self._closed]
        if statuses and all(status in ENDED for status in statuses):
            return " after the last step; what was measured is written"
        if self._has_started:
            return "; what was measured is written"
        num_recorded = max(result.get("steps") or 0 for result in self.results)
        if not num_recorded:
            return " before the first step"
        of_each = " of each run" if len(self.results) > 1 else ""
        return f" before the first new step; {num_recorded} steps{of_each} are recorded"

    def _release_runs(self) -> None:
        """Waits for the trackers of all runs, which close their runs at the same time."""
        for writer in self._closed:
            error = None
            try:
                writer.release()
            except Exception as release_error:
                error = release_error
            self._update_result(writer, error)
        if self._reports.errors:
            stop_service()
            self._reports.errors.clear()

    def _can_be_split(self, error: BaseException) -> bool:
        if isinstance(error, CheckpointStepMismatch):
            return True
        # Trackers start after the first step: from then on the runs cannot start once more.
        return is_out_of_memory(error) and not self._has_started and len(self._specs) > 1

    @property
    def _has_started(self) -> bool:
        """Whether the first step is compiled and trained."""
        return self._compiled_at != self._created_at

    def _is_refused(self, error: BaseException | None) -> bool:
        """Whether the runs cannot start as the user asked for them, so that no record remains."""
        if error is None or self._has_started or self.start_step:
            return False
        return not isinstance(error, OSError) and explain(error) is not None

    def find_start_step(self) -> None:
        """Sets ``start_step``.

        Raises:
            CheckpointStepMismatch: the runs resume at different steps.
        """
        local_steps = np.zeros(len(self._specs), np.int32)
        for writer in self._writers:
            if writer.checkpoint:
                local_steps[writer.index] = writer.checkpoint.step
        steps = broadcast_arrays({"steps": local_steps})["steps"]
        running = [writer.index for writer in self._writers]
        if len(np.unique(steps[running])) > 1:
            raise CheckpointStepMismatch(_group_by_step(self._specs, steps.tolist()))
        self.start_step = int(max(steps))
        self._steps_written = self.start_step
        if self.start_step:
            self.progress.resume(self.start_step, self.setup.steps)

    def pop_checkpoints(self) -> dict[int, Checkpoint]:
        """The checkpoints that the runs resume from, by index; the group frees their memory."""
        checkpoints = {}
        for writer in self._writers:
            if writer.checkpoint:
                checkpoints[writer.index] = writer.checkpoint
            writer.checkpoint = None
        return checkpoints

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether the state after the present chunk should be saved."""
        return is_primary() and self._checkpoint_writer.is_due

    @property
    def has_ended(self) -> bool:
        """Whether every run has ended."""
        return not self._writers

    def record_parameter_count(self, params: Any) -> None:
        """Records the number of parameters of each network, from those of all runs [M, …]."""
        self._for_each_run(lambda writer: writer.record_parameter_count(params))

    def start_training(self) -> None:
        """Ends the compile time, after the first step, and starts the trackers."""
        self._compiled_at = time.monotonic()
        self._for_each_run(RunWriter.start_training)

    def seconds_per_step(self) -> float | None:
        """The mean time of a step after the first one; None until such steps are written."""
        num_steps = self._steps_written - self.start_step
        if num_steps <= 1:
            return None
        seconds = self._written_at - self._compiled_at
        return seconds / (num_steps - 1)

    def write_chunk(self, chunk: Chunk) -> None:
        """Fetches the results of a chunk, and writes the rows of each run and its checkpoint."""
        # Fetched whole: indexing on the device would wait for the chunk that it computes now.
        rows = _to_host(chunk.rows)
        evaluation = _to_host(chunk.evaluation)
        diagnostics = _to_host(chunk.diagnostics)

        def write_rows(writer: RunWriter) -> None:
            # Copies, because views would keep the rows of all runs in memory.
            run_rows = _select_run(rows, writer.index, slice(chunk.num_steps))
            run_rows = jax.tree.map(np.copy, run_rows)
            run_evaluation = _select_run(evaluation, writer.index)
            run_diagnostics = _select_run(diagnostics, writer.index)
            writer.write_rows(chunk.start, run_rows, run_evaluation, run_diagnostics)

        self._for_each_run(write_rows)
        self._steps_written = chunk.start + chunk.num_steps
        self._written_at = time.monotonic()
        if self._writers:
            losses = rows["train_loss"][:, chunk.num_steps - 1]
            self._show_progress({"loss": losses, **evaluation})
        if chunk.state:
            self._save_checkpoints(chunk.state)

    def _show_progress(self, metrics: Metrics) -> None:
        """Shows the means of metrics [M] over the runs that have not ended."""
        running = [writer.index for writer in self._writers]
        means = {}
        for name, values in metrics.items():
            mean = np.mean(values[running])
            if not np.isnan(mean):  # a regression has no accuracy
                means[name] = float(mean)
        kinds = [writer.verdict.kind for writer in self._writers if writer.verdict]
        self.progress.step(
            self._steps_written, self.setup.steps, note=describe_kinds(kinds), **means
        )

    def save_final_checkpoint(self, state: TrainState) -> None:
        """Saves the state after the last chunk, where the runs are unfinished or ask for it."""
        settings = self._checkpoint_settings
        is_unfinished = self._steps_written < self.setup.steps
        is_wanted = settings.keep or (is_unfinished and settings.every is not None)
        has_trained = self._steps_written > self.start_step
        if is_primary() and is_wanted and has_trained and self._writers:
            self._save_checkpoints(copy_to_host(state))

    def _save_checkpoints(self, state: Arrays) -> None:
        """Starts to write a checkpoint of each run that has not ended, from the state of all."""
        checkpoints = []

        def add_checkpoint(writer: RunWriter) -> None:
            arrays = {}
            for path, array in state.items():
                arrays[path] = array[writer.index, ...]
            arrays = trim_layers(arrays, self.setup.program_config.architecture, writer.layers)
            notes = writer.checkpoint_notes()
            checkpoint = Checkpoint(self._steps_written, arrays, notes)
            checkpoints.append((writer.checkpoints, checkpoint))

        self._for_each_run(add_checkpoint)
        with delayed():  # the first ones start a thread
            self._checkpoint_writer.write(checkpoints)

    def _for_each_run(self, act: Callable[[RunWriter], None]) -> None:
        """Calls ``act`` for each run that has not ended; closes it where it raises or diverges."""
        for writer in list(self._writers):
            try:
                act(writer)
            except Exception as error:
                if jax.process_count() > 1:  # the processes of a run end together
                    raise
                self._close_run(writer, error)
            else:
                if writer.has_ended:
                    self._close_run(writer)

    def _close_run(self, writer: RunWriter, error: BaseException | None = None) -> None:
        self._writers.remove(writer)
        self._closed.append(writer)
        self._checkpoint_writer.wait()
        try:
            if self._is_refused(error):
                writer.discard()
            else:
                writer.close(error)
        except Exception as closing_error:
            error = error or closing_error
        else:
            if writer.stopped_by and isinstance(error, KeyboardInterrupt):
                error = None  # the signal came from the dashboard that ended the run
        self._update_result(writer, error)

    def _update_result(self, writer: RunWriter, error: BaseException | None) -> None:
        """Puts the record of a run into its result, and the first error that it had."""
        result = self.results[writer.index]
        first_error = result.get("error") or error
        result.update(writer.record.info)
        if first_error is not None:
            result.update(status="failed", error=first_error)


def _to_host(tree: Metrics) -> Metrics:
    return jax.tree.map(np.asarray, tree)


def _select_run(tree: Metrics, *index: Any) -> Metrics:
    return jax.tree.map(lambda values: values[index], tree)


def _group_by_step(run_specs: Sequence[RunSpec], steps: Sequence[int]) -> list[list[RunSpec]]:
    """Groups runs by the step that they resume at, the largest step first."""
    groups: dict[int, list[RunSpec]] = {}
    for step in sorted(steps, reverse=True):
        groups[step] = []
    for run_spec, step in zip(run_specs, steps, strict=True):
        groups[step].append(run_spec)
    return list(groups.values())


def describe_kinds(kinds: Sequence[str]) -> str:
    """How many running runs have which verdict, without those that are healthy.

    >>> describe_kinds(["healthy", "vanishing", "vanishing", "not_learning"])
    '2 vanishing, 1 not learning'
    >>> describe_kinds(["vanishing"])
    'vanishing'
    """
    counts = Counter(kind for kind in kinds if kind != HEALTHY)
    words = []
    for kind, count in counts.items():
        name = kind.replace("_", " ")
        words.append(name if len(kinds) == 1 else f"{count} {name}")
    return ", ".join(words)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or a device ran out of memory."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
