"""Writes one run: its rows go to its record and its trackers, and the run is judged at its end."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from research.config.data_options import Data
from research.config.number_formats import POLICIES, Policy
from research.config.schema import to_dict
from research.data.sources import last_change_of
from research.diagnosis.findings import HEALTHY, Finding
from research.diagnosis.observed import Divergence, find_divergence
from research.diagnosis.steps import judge_steps
from research.diagnosis.verdict import Verdict, find_stop
from research.gauges.table import (
    METRICS,
    Metric,
    MetricSource,
    metric_names,
    trim_profile,
)
from research.parallel.processes import is_primary
from research.records.jax_settings import read_jax_settings
from research.records.mirror import choose_wandb_id, pending_mirrors
from research.records.record import NullRecord, read_info
from research.records.rows import diagnostics_by_step, select_rows
from research.records.table_writer import CorruptTable
from research.records.trackers import BackgroundTrackers, Tracker, TrackerReports
from research.records.trackers.registry import make_trackers
from research.runner.checkpoint_notes import CheckpointNotes
from research.runner.judging import RunJudge, VerdictClock
from research.runner.provenance import git_commit, package_versions
from research.runner.resume import EarlierRows, OpenedRun, open_run
from research.runner.run_setup import RunSetup
from research.runner.run_spec import RunSpec, recorded_ids
from research.theory.formats import gauges_from_counts
from research.training.checkpoint import Checkpoints
from research.training.exponents import trim_counts
from research.training.layer_params import count_params
from research.training.program import Metrics

Columns = dict[str, np.ndarray]
GATHER_SECONDS = 1.0  # how long rows wait on their way to the trackers
STEP_METRICS = metric_names(MetricSource.STEP)
EVALUATION_METRICS = metric_names(MetricSource.EVALUATION)


class RunWriter:
    """Writes a run while it is trained.

    Attributes:
        record: the tables and ``run.json`` of the run.
        checkpoint: what the run resumes from; None for a run from the start.
        checkpoints: where the run's checkpoints are written.
        diverged: where the first number that is not finite is; None until then. Its layer is None
            at a step that is not measured.
        stopped: the finding that ended the run early; None until then.
        stopped_by: the tracker whose dashboard ended the run early; None until then.
        verdict: the last verdict on the running run; None until there is one.
        index: the place of the run in its group.
        layers: the layers N of its network.
    """

    def __init__(
        self,
        run_spec: RunSpec,
        setup: RunSetup,
        *,
        index: int,
        group_size: int,
        reports: TrackerReports | None = None,
        report_verdict: Callable[[float], None] | None = None,
    ):
        """Opens the record of the run.

        Args:
            run_spec: the run.
            setup: what the runs of the group are trained with.
            index: the place of the run in its group.
            group_size: how many runs are trained as one program. The seconds that are recorded
                are those of the whole group.
            reports: what the trackers of this command have reported.
            report_verdict: called with the CPU seconds of each verdict on the running run.
        """
        self.config = run_spec.config
        self.setup = setup
        self.index = index
        self.layers = setup.layers_of(run_spec.config)
        self.checkpoints = Checkpoints(run_spec.directory)
        self.diverged: Divergence | None = None
        self.stopped: Finding | None = None
        self.stopped_by: str | None = None
        self.verdict: Verdict | None = None
        self._metrics: list[Columns] = []
        self._judge = RunJudge(self.config, setup, self.layers)
        self._clock = VerdictClock(
            group_size,
            self.config.diagnose.every,
            report=report_verdict,
        )
        self._earlier_seconds = {"compile": 0.0, "train": 0.0}
        info = _initial_info(run_spec, setup)
        info["group_size"] = group_size
        trackers: list[Tracker] = []
        if is_primary():
            has_own_data = run_spec.has_own_data
            wandb_id = choose_wandb_id(run_spec.directory, info, has_own_data=has_own_data)
            trackers = make_trackers(
                run_spec.directory,
                run_spec.identity,
                to_dict(self.config),
                wandb_id=wandb_id,
                reports=reports,
                judge=judge_steps,
            )
            info |= pending_mirrors(run_spec.directory, info, trackers, wandb_id)
            opened = open_run(run_spec, setup, info)
        else:
            opened = OpenedRun(NullRecord(info))
        self.record = opened.record
        self.checkpoint = opened.checkpoint
        self.num_replaced_steps = opened.num_replaced_steps
        self._unsent_rows = opened.earlier_rows  # for the trackers, once they have started
        self.trackers = BackgroundTrackers(trackers, reports, gather_seconds=GATHER_SECONDS)
        self._created_at = time.monotonic()
        self._compiled_at = self._created_at
        if opened.notes:
            self._earlier_seconds = opened.notes.seconds
        if opened.earlier_rows:
            self._add_earlier_rows(opened.earlier_rows)

    def _add_earlier_rows(self, rows: EarlierRows) -> None:
        """Adds the rows of an earlier attempt to the data for the verdict."""
        self._metrics.append(rows.metrics)
        self._judge.add_metrics(rows.metrics)
        self._judge.add_profiles(rows.profiles)
        for step, diagnostics in diagnostics_by_step(rows.profiles, rows.inspections).items():
            self._judge.add_diagnostics(step, diagnostics)

    def record_parameter_count(self, params: Any) -> None:
        """Records how many parameters the network has, from the parameters of all runs [M, …]."""
        count = count_params(self.setup.program_config.architecture, self.layers, params)
        self.record.update(parameters=count)

    def start_training(self) -> None:
        """Ends the compile time, after the first step, and starts the trackers.

        The trackers are sent the rows of an earlier attempt too; they skip those that they have.
        """
        self._compiled_at = time.monotonic()
        self.trackers.start()
        rows = self._unsent_rows
        if rows:
            diagnostics = diagnostics_by_step(rows.profiles, rows.inspections)
            self.trackers.log(rows.metrics, rows.profiles, diagnostics)
            self._unsent_rows = None

    def checkpoint_notes(self) -> dict[str, Any]:
        """What a checkpoint holds besides the state; the rows up to it are flushed first."""
        info = self.record.info
        rows = self.record.flush()
        notes = CheckpointNotes(
            id=info["id"],
            data=info["data"]["fingerprint"],
            resumed=info.get("resumed", []),
            seconds=self._seconds(),
            rows=rows,
            part_checksums=self.record.part_checksums(),
            jax_settings=info["jax_settings"],
        )
        return notes.as_json()

    def _seconds(self) -> dict[str, float]:
        """The seconds of this attempt and of the earlier ones that it resumes."""
        seconds = dict(self._earlier_seconds)
        seconds["compile"] += self._compiled_at - self._created_at
        seconds["train"] += time.monotonic() - self._compiled_at
        return seconds

    def write_rows(
        self,
        start: int,
        rows: Metrics,
        evaluation: Metrics,
        diagnostics: Metrics,
    ) -> None:
        """Hands the rows of consecutive steps to the record and the trackers.

        Rows after the first step that is not finite mean nothing and are dropped.

        Args:
            start: the first step.
            rows: metrics of each step, with axis 0 over the steps; ``profile`` holds those of
                each layer.
            evaluation: held-out loss and accuracy after the last step; may be empty.
            diagnostics: what was measured before step ``start``: ``exponents``, ``inspections``,
                both or neither.
        """
        num_steps = len(rows["finite"])
        if "profile" in rows:
            rows = rows | {"profile": trim_profile(rows["profile"], self.layers)}
        nonfinite = np.flatnonzero(~rows["finite"])
        if len(nonfinite):
            num_steps = int(nonfinite[0]) + 1
            rows = jax.tree.map(lambda column: column[:num_steps], rows)
            evaluation = {}
            last_step = start + num_steps - 1
            self.diverged = self._find_divergence(last_step, rows)
        steps = np.arange(start, start + num_steps)
        metrics = self._metric_columns(steps, rows, evaluation)
        profiles = self._profile_columns(steps, rows)
        self._metrics.append(metrics)
        self._judge.add_metrics(metrics)
        self._judge.add_profiles(profiles)
        exponents = self._exponent_gauges(diagnostics.get("exponents"))
        inspections = diagnostics.get("inspections", {})
        self._judge.add_diagnostics(start, exponents | inspections)
        self._record_rows(metrics, profiles, exponents)
        self.record.add_inspections(start, inspections)
        self.trackers.log(metrics, profiles, {start: exponents | inspections})
        self._judge_so_far(start + num_steps)
        is_last = start + num_steps >= self.setup.steps
        # The processes of a distributed run end together, and only one of them has trackers.
        if jax.process_count() == 1 and not is_last and not self.has_ended:
            self.stopped_by = self.trackers.find_stop()

    @property
    def has_ended(self) -> bool:
        """Whether the run ends here, whatever steps are left."""
        return bool(self.diverged or self.stopped or self.stopped_by)

    def _judge_so_far(self, num_steps: int) -> None:
        """Judges the running run where it is time, and notes whether that ends it.

        Whether a run is stopped is decided at fixed steps, so that it does not depend on the speed
        of the machine.
        """
        interval = self.setup.stop_every
        stop = self.config.diagnose.stop
        may_stop = bool(stop) and interval is not None and num_steps % interval == 0
        is_last = num_steps >= self.setup.steps
        if self.diverged or is_last or not (may_stop or self._clock.is_due):
            return
        with self._clock.measure():
            self.verdict = self._judge.judge(with_advice=False)
            if self.verdict is None:
                return
            if may_stop:
                self.stopped = find_stop(self.verdict, stop)
            self.checkpoints.is_suspect |= self.verdict.kind != HEALTHY
            self.record.update(verdict=self.verdict.as_dict())

    def _find_divergence(self, step: int, rows: Metrics) -> Divergence:
        """Where the numbers of the last row are not finite."""
        profile = {}
        if self._is_measured(step):
            for name, values in rows.get("profile", {}).items():
                profile[name] = values[-1]
        return find_divergence(step, profile)

    @property
    def _policy(self) -> Policy:
        return POLICIES[self.config.precision.kind.name]

    def _is_measured(self, step: Any) -> Any:
        return step % self.setup.program_config.measure_every == 0

    def _metric_columns(
        self,
        steps: np.ndarray,
        rows: Metrics,
        evaluation: Metrics,
    ) -> Columns:
        """The rows as columns of ``metrics.parquet``."""
        columns: Columns = {}
        columns["step"] = steps
        columns["epoch"] = steps / self.setup.steps_per_epoch
        for name in STEP_METRICS:
            columns[name] = rows[name]
        for name in EVALUATION_METRICS:
            columns[name] = np.ma.masked_all(len(steps))
            if name in evaluation:
                columns[name][-1] = evaluation[name]
        if self.setup.dataset.is_regression:  # regression has no accuracy
            columns["train_accuracy"] = np.ma.masked_all(len(steps))
            columns["eval_accuracy"] = np.ma.masked_all(len(steps))
        if "profile" in rows:
            is_missing = ~self._is_measured(steps)
            columns["grad_norm"] = np.ma.masked_array(rows["grad_norm"], is_missing)
        return columns

    def _profile_columns(self, steps: np.ndarray, rows: Metrics) -> Columns:
        """The measured rows as columns of ``profiles.parquet``; empty where none is measured."""
        if "profile" not in rows:
            return {}
        columns = {"step": steps} | rows["profile"]
        return select_rows(columns, self._is_measured(steps))

    def _exponent_gauges(self, counts: Metrics | None) -> Columns:
        """The gauges of the exponents that were counted; empty without counts."""
        if not counts:
            return {}
        policy = self._policy
        own_counts = trim_counts(counts, self.layers)
        return gauges_from_counts(own_counts, policy.compute, policy.narrowest)

    def _record_rows(
        self,
        metrics: Columns,
        profiles: Columns,
        exponents: Columns,
    ) -> None:
        """Adds rows to the record. Exponents belong to the first measured step only."""
        if exponents and profiles:
            first_row = select_rows(profiles, slice(1))
            first_row |= select_rows(exponents, np.newaxis)
            self.record.add({}, first_row)
            profiles = select_rows(profiles, slice(1, None))
        self.record.add(metrics, profiles)

    def discard(self) -> None:
        """Removes the record of a run that cannot start as it was asked for.

        ``release`` must follow.
        """
        try:
            self.record.discard()
        finally:
            self.trackers.finish(dict(self.record.info))

    def close(self, error: BaseException | None = None) -> None:
        """Ends the run and writes what was measured. ``release`` must follow.

        Trackers close the run meanwhile, without being waited for.

        Args:
            error: what stopped the run before its last step; None for a run that ended by itself.
        """
        num_steps = self._num_steps()
        is_interrupted = isinstance(error, KeyboardInterrupt)
        if is_interrupted and not self.has_ended and num_steps < self.setup.steps:
            self.stopped_by = self.trackers.find_stop(is_interrupted=True)
        status = self._final_status(error, num_steps)
        seconds = self._seconds()
        seconds["total"] = seconds["compile"] + seconds["train"]
        info: dict[str, Any] = {
            "status": status,
            "seconds": seconds,
            "steps": num_steps,
        }
        if self.stopped is not None:
            info["stopped"] = {"kind": self.stopped.kind.name, "step": num_steps - 1}
        if self.stopped_by is not None:
            info["stopped"] = {"by": self.stopped_by, "step": num_steps - 1}
        if status == "failed":
            info["error"] = f"{type(error).__name__}: {error}"
        is_unfinished = status in ("interrupted", "failed")
        can_resume = is_unfinished and self.checkpoints.has_checkpoint
        # A longer run that goes on from here needs the rows as the checkpoint knows them.
        can_be_continued = status == "done" and self.config.checkpoint.keep
        try:
            info["final"] = self._final_metrics()
            info["verdict"] = self._verdict()
            try:
                self.record.close(**info, keep_parts=can_resume or can_be_continued)
            except (OSError, CorruptTable) as closing_error:
                info["status"] = "failed"
                info["error"] = f"{type(closing_error).__name__}: {closing_error}"
                self.record.fail(**info)
                raise
            if is_primary() and not can_resume and not self.config.checkpoint.keep:
                if (info["verdict"] or {}).get("kind", HEALTHY) != HEALTHY:
                    self.checkpoints.keep_for_replay()
                self.checkpoints.remove()
        finally:
            self.trackers.finish(dict(self.record.info))

    def release(self) -> None:
        """Waits for the trackers, records how far the dashboards are, and unlocks the run."""
        try:
            changes = self.trackers.start_info()
            mirrored = self.trackers.wait()
            if mirrored:
                changes["mirrored"] = self.record.info.get("mirrored", {}) | mirrored
            if changes:
                self.record.update(**changes)
        finally:
            self.record.release()

    def _num_steps(self) -> int:
        """The steps of the run so far, with those of earlier attempts."""
        if not self._metrics:
            return 0
        last_rows = self._metrics[-1]
        return int(last_rows["step"][-1]) + 1

    def _final_status(self, error: BaseException | None, num_steps: int) -> str:
        if isinstance(error, KeyboardInterrupt):
            if not self.has_ended and num_steps < self.setup.steps:
                return "interrupted"
        elif error is not None:
            return "failed"
        if self.stopped or self.stopped_by:
            return "stopped"
        return "diverged" if self.diverged else "done"

    def _final_metrics(self) -> dict[str, float | None]:
        """Means over the last epoch of the training metrics, and the last evaluation."""
        final: dict[str, float | None] = {}
        if not self._metrics:
            return final
        for metric in METRICS:
            if metric.is_final:
                final[metric.name] = self._final_value(metric)
        return final

    def _final_value(self, metric: Metric) -> float | None:
        """The mean over the last epoch of a training metric, or the last evaluation."""
        values = self._all_values(metric.name)
        if metric.source is MetricSource.STEP:
            last_epoch = np.ma.compressed(values[-self.setup.steps_per_epoch :])
            return float(np.mean(last_epoch)) if len(last_epoch) else None
        evaluations = np.ma.compressed(values)
        return float(evaluations[-1]) if len(evaluations) else None

    def _all_values(self, name: str) -> np.ma.MaskedArray:
        values = [columns[name] for columns in self._metrics]
        return np.ma.concatenate(values)

    def _verdict(self) -> dict[str, Any] | None:
        """The verdict as JSON; None for a run that measured nothing and did not diverge."""
        verdict = self._judge.judge(self.diverged)
        return verdict.as_dict() if verdict else None


def _initial_info(run_spec: RunSpec, setup: RunSetup) -> dict[str, Any]:
    """``run.json`` when the run starts."""
    device = jax.devices()[0]
    config = run_spec.config
    return {
        "id": run_spec.identity,
        **_earlier_id(run_spec),
        "seed": config.seed,
        "tags": list(config.tags),
        "notes": config.notes,
        "versions": package_versions(),
        "git": git_commit(),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
        "jax_settings": read_jax_settings(),
        "layers": setup.layers_of(config),
        "data": _data_info(setup, config.data),
    }


def _earlier_id(run_spec: RunSpec) -> dict[str, str]:
    """The entry of ``run.json`` for the id by which another version of Fathom began the run."""
    earlier = read_info(run_spec.directory) or {}
    for identity in reversed(recorded_ids(earlier)):
        if identity != run_spec.identity:
            return {"earlier_id": identity}
    return {}


def _data_info(setup: RunSetup, data: Data) -> dict[str, Any]:
    dataset = setup.dataset
    info = {
        "name": dataset.name,
        "version": dataset.version,
        "split": dataset.split,
        "fingerprint": dataset.fingerprint(),
        "examples": dataset.examples,
        "class_counts": dataset.class_counts,
    }
    changed = last_change_of(data)
    if changed is not None:
        info["changed_ns"] = changed
    if dataset.vocabulary:
        info["symbols"] = dataset.symbols
        info["unigram_entropy"] = dataset.unigram_entropy
    return info
