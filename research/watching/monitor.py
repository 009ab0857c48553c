"""``fathom.Monitor``: records somebody's training loop as Fathom records its own runs."""

import atexit
import contextlib
import math
import os
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import ascii_lowercase
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from jax.core import Tracer

from research.config.arguments import check_settings, check_whole, describe_argument, short_repr
from research.config.fields import to_plain
from research.config.notices import notify
from research.config.options import TRACKER_NAMES, TrackedLayers
from research.config.options import Tracker as TrackerSettings
from research.config.packages import (
    PACKAGE_OF_TRACKER,
    check_trackers,
    describe_missing_package,
    is_installed,
)
from research.config.suggestions import format_suggestion
from research.config.validation import check_given_settings
from research.diagnosis.observed import Divergence, Inputs, Observed, find_divergence
from research.diagnosis.stacks import Stack, StackVerdicts, judge_stacks
from research.gauges.table import ACTIVATION_RMS, GRAD_NORM, METRICS, SIGNAL_GRAD, MetricSource
from research.parallel.processes import is_primary
from research.records.mirror import choose_id_of_loop, pending_mirrors
from research.records.record import Lock, NullRecord, RunLocked, RunRecord, report_replaced_rows
from research.records.rows import RecordedRows, read_rows, select_rows
from research.records.run_info import SOURCE_WATCH, DamagedRecord, DamagedTable, read_run_info
from research.records.runs import METRICS as METRICS_TABLE
from research.records.runs import PROFILES, Columns
from research.records.table_writer import CorruptTable, rewrite_table
from research.records.trackers import BackgroundTrackers, Tracker
from research.records.trackers.history import (
    FINDINGS,
    HEAT_MAP,
    JUDGED_KEYS,
    METRIC_KEYS,
    PAGE,
    STEP,
    TABLE,
)
from research.records.trackers.identity import WandbId, check_mode, check_project
from research.records.trackers.registry import make_trackers
from research.runner.provenance import package_versions
from research.runner.run_spec import check_directory
from research.watching.gauges import Gauges
from research.watching.layers import LayerTable
from research.watching.slots import COUNT
from research.watching.watch import Watch, check_chance_loss

RESERVED = ("watch", "tracker")  # entries of the configuration that are not the user's
# What other loops call the metrics that `fathom runs` shows.
METRIC_NAMES = {"loss": "train_loss", "accuracy": "train_accuracy"}
USUAL_NAMES = (*METRIC_NAMES, "eval_loss", "eval_accuracy", "learning_rate", "gauges")
WANDB_KEYS = ("_step", "_runtime", "_timestamp", "_wandb")  # what W&B adds to a row
RESERVED_KEYS = (STEP, HEAT_MAP, TABLE, PAGE, FINDINGS, *JUDGED_KEYS.values(), *WANDB_KEYS)
MOST_STEPS = 2**53  # up to which float64, as which readers get it, holds every whole number
MOST_OF_FLOAT = 2**1000  # below the largest float64
FLUSH_SECONDS = 2.0  # how long what was logged may stay in memory
SHARE_OF_END = 0.1  # final training metrics are means over the last tenth of the rows
EVALUATIONS = tuple(
    metric.name
    for metric in METRICS
    if metric.source is MetricSource.EVALUATION and metric.is_final
)
TRAINING = tuple(
    metric.name for metric in METRICS if metric.source is MetricSource.STEP and metric.is_final
)


@dataclass(frozen=True)
class _Entry:
    """What ``log`` was given for one step, possibly still being computed."""

    step: int
    gauges: Gauges | None
    scalars: dict[str, Any]


@dataclass(frozen=True)
class _Resumption:
    """Where a loop goes on after an earlier attempt.

    Attributes:
        step: the first step that is logged.
        last: the last step of which the earlier attempt has a row; None where it has none.
        interval: the largest distance between two steps that it has logged; 1 where unknown.
        was_killed: whether it was killed, which loses what it has logged in the last seconds.
    """

    step: int
    last: int | None
    interval: int
    was_killed: bool

    def describe_lost_rows(self, interval: int) -> str:
        """What the record lacks between the attempts, in words; empty where it lacks nothing.

        Args:
            interval: the distance between two steps that are logged now.
        """
        last = self.last or 0  # without rows, the first step may be any up to the interval
        if self.step - last <= max(interval, self.interval):
            return ""
        reason = ": the earlier attempt was killed before it wrote them" if self.was_killed else ""
        if self.last is not None:
            return f"has no rows of steps {self.last + 1} to {self.step - 1}{reason}"
        return f"has no rows of the steps before {self.step}{reason}" if self.was_killed else ""


class Monitor:
    """Writes the run directory of a training loop, with a verdict at its end.

    ``fathom runs``, ``fathom show`` and Weights & Biases work on the directory. Numbers are fetched
    from the device one step late, so that logging never waits for the step that was just started.
    Two seconds after a step was logged it is on the disk; a process that is killed loses no more,
    and a line says so when it is resumed.
    On several hosts only process 0 writes.

    >>> import fathom
    >>> with fathom.Monitor("outputs/mine/first", fathom.watch(), every=10) as monitor:
    ...     for step in range(100):
    ...         # params, loss, gauges = train_step(params, batch, measure=monitor.due(step))
    ...         # monitor.log(step, gauges, loss=loss)
    ...         pass

    Attributes:
        directory: the run directory, as an absolute path.
        every: a step in so many is measured.
    """

    def __init__(
        self,
        directory: str | Path,
        watch: Watch | None = None,
        *,
        every: int = 1,
        tracker: str | Sequence[str] | Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        resume: bool = False,
        chance_loss: float | None = None,
    ):
        """Creates the directory.

        Args:
            directory: the run directory, such as ``outputs/STUDY/RUN``. ``fathom runs`` looks below
                ``outputs``.
            watch: what is measured, for the record.
            every: a step in so many is measured.
            tracker: where to mirror the run: ``"wandb"``, ``"tensorboard"``, ``"trackio"`` or
                ``"mlflow"``, or a list of them; or a dictionary of Fathom's ``tracker`` settings,
                such as ``{"project": "mine"}``, for Weights & Biases unless it has ``"wandb":
                False``.
            settings: the configuration of the run, nested dictionaries of plain values. ``fathom
                runs`` filters and sorts by it.
            tags: tags of the run, in its record and in W&B. A run that is resumed without any keeps
                its earlier ones.
            resume: go on in a directory that holds a run already. Rows from the first logged step
                on are replaced.
            chance_loss: the training loss of a network that has learned nothing: that of the best
                constant prediction. For balanced classes it is the logarithm of their number, such
                as ``math.log(10)``; for a mean squared error the variance of the targets. The
                verdict compares the training loss with it. None: with the loss of the first step.

        Raises:
            TypeError: an argument is of another type.
            ValueError: the directory holds a run already, another process is writing it, or an
                argument cannot be used.
        """
        check_whole("every", every, least=1)
        if watch is not None and not isinstance(watch, Watch):
            raise TypeError(
                f"watch must be what fathom.watch returns, or None, got {describe_argument(watch)}"
            )
        if settings is not None:
            check_settings("settings", settings)
        if chance_loss is not None:
            check_chance_loss(chance_loss)
        usual = "outputs/STUDY/RUN"
        if not isinstance(directory, str | Path):
            raise TypeError(
                f"directory must be a folder such as outputs/STUDY/RUN, got {short_repr(directory)}"
            )
        if not str(directory).strip():
            raise ValueError("directory must be a folder such as outputs/STUDY/RUN, got none")
        self.directory = Path(directory)
        check_directory(self.directory, usual)
        self.directory = self.directory.absolute()  # the program may change to another directory
        self.every = int(every)
        self._chance_loss = chance_loss
        self._resume = resume
        self._config = _make_config(watch or Watch(), self.every, tracker, settings or {}, tags)
        self._logged_table: LayerTable | None = None
        self._table: LayerTable | None = None  # of the steps that were fetched
        self._pending: _Entry | None = None
        self._last_step = -1
        self._metrics: list[Columns] = []
        self._steps: list[int] = []
        self._signal_grads: list[np.ndarray] = []
        self._activations: list[np.ndarray] = []
        self._diverged: Divergence | None = None
        self._inputs: Inputs | None = None
        self._created_at = time.monotonic()
        self._started_at: float | None = None
        self._is_closed = False
        self._mutex = threading.RLock()  # held while rows are written, on either thread
        self._ended = threading.Event()
        self._process = os.getpid()
        self._fault: Exception | None = None  # what went wrong on the thread that flushes
        self._earlier: RecordedRows | None = None
        self._was_killed = False  # the earlier attempt
        self._wandb_id: WandbId | None = None
        self._resumption: _Resumption | None = None  # until its gap is known
        self._record: RunRecord | None = None
        self._lock: Lock | None = None
        self._info = _initial_info(settings or {})
        self._record_tags(self._config["watch"]["tags"])
        if is_primary():
            self._lock = self._open_directory()
        self._trackers = BackgroundTrackers(self._make_trackers())
        atexit.register(self._close_at_exit)

    def _record_tags(self, tags: list[str]) -> None:
        """Records tags where they stand in a run of ``fathom train``, and for W&B."""
        self._config["watch"]["tags"] = tags
        if tags:
            self._config["tags"] = [*tags]
            self._info["tags"] = [*tags]

    def _open_directory(self) -> Lock:
        """Locks the directory, and reads what an earlier attempt has recorded."""
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            lock = Lock(self.directory)
        except RunLocked:
            raise ValueError(
                f"{self.directory} is being written by another Monitor or command: close it or "
                "wait until it ends, or choose another directory"
            ) from None
        file = self.directory / "run.json"
        try:
            if file.exists() and not self._resume and not _is_without_steps(self.directory):
                raise ValueError(
                    f"{self.directory} already holds a run: choose another directory, or "
                    "resume=True to go on in it"
                )
            self._read_earlier()
            if self._earlier is None:
                report_replaced_rows(self.directory)
                _write_config(self.directory, self._config)
        except BaseException:
            lock.release()
            raise
        return lock

    def _read_earlier(self) -> None:
        file = self.directory / "run.json"
        if not file.exists() or not self._resume:
            return
        earlier = read_run_info(file)
        if earlier.get("source") != SOURCE_WATCH:
            raise ValueError(
                f"{self.directory} holds a run that fathom train has trained, whose rows would be "
                "replaced: choose another directory"
            )
        self._info["id"] = earlier.get("id") or self._info["id"]
        self._info["resumed"] = earlier.get("resumed") or []
        if not self._info.get("tags"):
            self._record_tags(list(map(str, earlier.get("tags") or [])))
        self._earlier = read_rows(self.directory)
        self._was_killed = earlier.get("status") == "running"

    def _make_trackers(self) -> list[Tracker]:
        if not is_primary():
            return []
        wandb_id = choose_id_of_loop(self.directory, self._info)
        trackers = make_trackers(self.directory, self._info["id"], self._config, wandb_id=wandb_id)
        self._info |= pending_mirrors(self.directory, self._info, trackers, wandb_id)
        self._wandb_id = wandb_id
        return trackers

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del kind, traceback
        self.close(error)

    def due(self, step: int) -> bool:
        """Whether a step is measured: a Python bool, known before the step is compiled.

        Raises:
            ValueError: the step is no whole number.
        """
        return _to_step(step) % self.every == 0

    def log(
        self,
        step: int,
        gauges: Gauges | None = None,
        **scalars: Any,
    ) -> None:
        """Records a step. Call it once for each step, in order.

        Args:
            step: the number of the step, from 0 to 2^53.
            gauges: what was measured; None for a step that was not.
            **scalars: numbers of the step, on the device or not; None for one that the step does
                not have, such as ``eval_loss`` between two evaluations. They are recorded as
                float64, so a whole number that float64 does not hold exactly is refused. ``loss``
                and ``accuracy`` are recorded as ``train_loss`` and ``train_accuracy``;
                ``eval_loss``, ``eval_accuracy`` and ``learning_rate`` have their own columns in
                ``fathom runs`` and W&B, and other names are recorded as they are. A slip of one of
                these, such as ``los``, is refused unless the name itself is given too.

        Raises:
            ValueError: the steps do not ascend, the gauges are those of another model, another
                process has opened the monitor, or an argument cannot be used.
        """
        self._check_process()
        if self._is_closed:
            raise ValueError("the monitor is closed: nothing more can be logged")
        step = _to_step(step)
        if gauges is not None and not isinstance(gauges, Gauges):
            raise ValueError(
                f"gauges must be what Watch.value_and_grad returned, got a {type(gauges).__name__}"
            )
        entry = _Entry(step, gauges, _rename(scalars))
        if gauges is not None and GRAD_NORM.name in entry.scalars:
            raise ValueError(
                f"{GRAD_NORM.name} is the norm that the gauges measure: give yours another name"
            )
        with self._mutex:
            if step <= self._last_step:
                raise ValueError(f"steps must ascend: step {step} follows step {self._last_step}")
            if gauges is not None:
                self._check_layers(step, gauges)
            if self._record is None:
                self._start(step)
            else:
                self._report_lost_rows(step - self._last_step)
            self._last_step = step
            self._write_pending(entry)

    def _check_process(self) -> None:
        """Refuses a forked process, whose rows would replace those of the one that it came from."""
        if os.getpid() != self._process:
            raise ValueError(
                f"another process has opened the monitor of {self.directory}: log there, or use a "
                "Monitor with a directory of its own"
            )

    def _check_layers(self, step: int, gauges: Gauges) -> None:
        """Refuses gauges of other layers than those of the steps before."""
        if self._logged_table is None:
            self._logged_table = gauges.table
        elif gauges.table != self._logged_table:
            raise ValueError(
                f"the layers of step {step} are not those of the steps before: use one Monitor for "
                "each model"
            )

    def _start(self, step: int) -> None:
        """Opens the record at the first step, after the rows of an earlier attempt."""
        self._started_at = time.monotonic()
        earlier = self._earlier
        if self._lock is None:
            self._record = NullRecord(self._info)
            self._trackers.start()
        elif earlier is None:
            self._record = RunRecord(self._lock, self._info)
            self._trackers.start()
        else:
            self._resume_record(self._lock, earlier, step)
            self._earlier = None
        if self._lock is not None:
            threading.Thread(target=self._flush_regularly, name="fathom-flush", daemon=True).start()

    def _resume_record(
        self,
        lock: Lock,
        earlier: RecordedRows,
        step: int,
    ) -> None:
        """Opens the record with the rows of an earlier attempt up to a step.

        Args:
            lock: the lock on the run directory.
            earlier: the rows of the earlier attempt.
            step: the step from which on they are replaced.
        """
        metrics = _rows_before(earlier.metrics, step)
        profiles = _rows_before(earlier.profiles, step)
        self._resumption = _Resumption(
            step=step,
            last=int(metrics["step"][-1]) if metrics and len(metrics["step"]) else None,
            interval=_largest_interval(earlier.metrics, self._info["resumed"]),
            was_killed=self._was_killed,
        )
        self._info["resumed"] = [*self._info["resumed"], step]
        _write_config(self.directory, self._config)
        num_kept = {
            METRICS_TABLE: rewrite_table(self.directory, METRICS_TABLE, metrics),
            PROFILES: rewrite_table(self.directory, PROFILES, profiles),
        }
        self._record = RunRecord(lock, self._info, keep_rows=num_kept)
        self._report_new_wandb_id(step)
        self._trackers.start()
        if not metrics:
            return
        self._metrics.append(metrics)
        if profiles:
            self._steps += profiles["step"].tolist()
            self._signal_grads += list(profiles[SIGNAL_GRAD.name])
            self._activations += list(profiles[ACTIVATION_RMS.name])
        self._trackers.log(metrics, profiles, {})

    def _report_new_wandb_id(self, step: int) -> None:
        """Says that the run is another one in W&B than before it went on at a step."""
        wandb_id = self._wandb_id
        if wandb_id is not None and wandb_id.replaced is not None:
            print(
                f"fathom: {self.directory} has ended in W&B as {wandb_id.replaced}, and goes on at "
                f"step {step}: with all its rows, it is another run there, {wandb_id.value}",
                file=sys.stderr,
            )

    def _report_lost_rows(self, interval: int = 1) -> None:
        """Says once what the record lacks between the earlier attempt and the present one.

        Args:
            interval: the distance between two steps that are logged now.
        """
        resumption = self._resumption
        self._resumption = None
        lost = resumption.describe_lost_rows(interval) if resumption else ""
        if lost:
            print(f"fathom: {self.directory} {lost}", file=sys.stderr)

    def _flush_regularly(self) -> None:
        """Brings to the disk what was logged before a pause, such as an evaluation.

        What goes wrong is raised by the next call on the user's thread.
        """
        while not self._ended.wait(FLUSH_SECONDS):
            with self._mutex:
                if self._is_closed or self._fault:
                    return
                try:
                    self._write_pending()
                except Exception as fault:
                    self._fault = fault
                assert self._record is not None
                with contextlib.suppress(OSError):  # the rows stay in memory
                    self._record.flush()

    def _write_pending(self, following: _Entry | None = None) -> None:
        """Writes the last step that was logged, unless it is written already.

        Args:
            following: the step that is logged now, which waits from here on.
        """
        if self._fault is not None:
            raise self._fault
        waiting = self._pending
        self._pending = following
        if waiting is not None:
            self._write(waiting)

    def _write(self, entry: _Entry) -> None:
        """Fetches and records what was logged for a step."""
        assert self._record is not None
        metrics: Columns = {"step": np.array([entry.step])}
        for name, value in entry.scalars.items():
            metrics[name] = np.array([_to_float(name, _fetch(value))])
        profiles: Columns = {}
        if entry.gauges is not None:
            profiles = self._read_gauges(entry.step, entry.gauges, metrics)
        loss = metrics.get("train_loss")
        if loss is not None and not math.isfinite(loss[0]) and self._diverged is None:
            self._diverged = Divergence(entry.step)
        self._metrics.append(metrics)
        self._record.add(metrics, profiles)
        self._trackers.log(metrics, profiles, {})

    def _read_gauges(
        self,
        step: int,
        gauges: Gauges,
        metrics: Columns,
    ) -> Columns:
        """The gauges of a step as a row of ``profiles.parquet``.

        Args:
            step: the step.
            gauges: what was measured.
            metrics: the row of metrics, to which the norm of the whole gradient is added.
        """
        assert self._record is not None
        fetched = jax.tree.map(_fetch, gauges)
        if self._table is None:
            self._table = fetched.table
            self._record.update(**_describe_layers(fetched.table))
        total = float(fetched.grad_norm_total)
        metrics[GRAD_NORM.name] = np.array([total])
        profiles: Columns = {"step": np.array([step])}
        for name, values in fetched.profile().items():
            profiles[name] = np.asarray(values)[None]
        signal = np.array(profiles[SIGNAL_GRAD.name][0], np.float64)
        if self._diverged is None:
            self._diverged = _find_divergence(step, fetched, total)
        self._watch_inputs(step, float(fetched.largest_input))
        self._steps.append(step)
        self._signal_grads.append(signal)
        activation = profiles[ACTIVATION_RMS.name][0]
        self._activations.append(np.array(activation, np.float64))
        return profiles

    def _watch_inputs(self, step: int, largest: float) -> None:
        """Notes from which step on the inputs are not finite, or whether all have been zero."""
        known = self._inputs
        if known is not None and known.largest == largest == 0:
            return
        if known is None or math.isfinite(known.largest):
            self._inputs = Inputs(step, largest)

    def verdict(self) -> StackVerdicts | None:
        """The verdict on the steps that were logged so far; ``print`` shows it in words.

        None where nothing was measured.

        Raises:
            ValueError: another process has opened the monitor.
        """
        self._check_process()
        with self._mutex:
            self._write_pending()
            return self._judge()

    def _judge(self) -> StackVerdicts | None:
        if self._table is None and not self._signal_grads:
            return None
        num_signals = len(self._signal_grads[0]) if self._signal_grads else 0
        signal_grads = np.array(self._signal_grads).reshape(-1, num_signals)
        return judge_stacks(
            np.array(self._steps, int),
            signal_grads,
            stacks=_make_stacks(self._table) if self._table else [],
            names=self._layer_names(num_signals),
            diverged=self._diverged,
            observed=Observed(
                metrics=self._all_metrics(),
                profiles=self._profiles_of_divergence(signal_grads),
                chance_loss=self._chance_loss,
                bad_inputs=self._inputs,
            ),
        )

    def _profiles_of_divergence(self, signal_grads: np.ndarray) -> Columns:
        """What says where a loop diverged that it did not measure at that step."""
        if self._diverged is None or not self._steps:
            return {}
        return {
            "step": np.array(self._steps, int),
            ACTIVATION_RMS.name: np.array(self._activations).reshape(signal_grads.shape),
            SIGNAL_GRAD.name: signal_grads,
        }

    def _all_metrics(self) -> Columns:
        """The metrics of all steps; NaN where a step has none."""
        names = {name: None for columns in self._metrics for name in columns}
        series: dict[str, list[float]] = {name: [] for name in names}
        for columns in self._metrics:
            for name in names:
                missing = np.full(len(columns["step"]), np.nan)
                values = np.ma.asarray(columns.get(name, missing), dtype=float)
                series[name].extend(np.ma.filled(values, np.nan).tolist())
        return {name: np.array(values) for name, values in series.items()}

    def _layer_names(self, num_signals: int) -> list[str]:
        if self._table is None:
            return [f"layer {index}" for index in range(num_signals - 1)]
        return list(self._table.names)

    def close(self, error: BaseException | None = None) -> None:
        """Ends the run: writes what is left, the final numbers and the verdict.

        Args:
            error: what stopped the loop; None for one that ended by itself.
        """
        if isinstance(error, KeyboardInterrupt):
            self._close("interrupted")
        elif error is not None:
            self._close("failed", error)
        else:
            self._close("done")

    def _close_at_exit(self) -> None:
        will_record = self._lock is not None and self._earlier is None
        is_open = os.getpid() == self._process and not self._is_closed
        try:
            self._close("interrupted")
        except (OSError, CorruptTable) as error:
            print(f"fathom: {self.directory} was not closed: {error}", file=sys.stderr)
        else:
            if is_open and will_record:
                lost = (
                    ", and W&B gets no pictures of it" if self._config["tracker"]["wandb"] else ""
                )
                notify(
                    f"{self.directory} was not closed, so its status is interrupted{lost}: call "
                    "close() after the last step, or use `with`"
                )

    def _close(self, status: str, error: BaseException | None = None) -> None:
        if os.getpid() != self._process:
            return  # a forked process ends, and the run goes on in the one that opened it
        with self._mutex:
            if self._is_closed:
                return
            self._is_closed = True
        self._ended.set()
        atexit.unregister(self._close_at_exit)
        if self._earlier is not None and self._lock is not None:
            self._lock.release()  # no step was logged: the earlier record stays as it is
            return
        self._report_lost_rows()
        try:
            self._write_end(status, error)
        finally:
            self._trackers.finish(dict(self._info))
            self._release()

    def _write_end(self, status: str, error: BaseException | None) -> None:
        """Writes what is left, the final numbers and the verdict.

        Raises:
            OSError: the disk is full, say; the run has failed then.
            CorruptTable: the same, where rows that were written have disappeared.
            Exception: the numbers of the last step cannot be fetched; the same.
        """
        try:
            try:
                self._write_pending()
            except Exception:
                # The error that stopped the loop may have left nothing to fetch; it is reported.
                if error is None:
                    raise
            verdict = self._judge()
            if self._record is None:
                self._start(0)
            assert self._record is not None
            if status == "done" and self._diverged is not None:
                status = "diverged"
            info: dict[str, Any] = {
                "status": status,
                "seconds": self._seconds(),
                "steps": self._last_step + 1,
                "final": self._final(),
                "verdict": verdict.as_dict() if verdict else None,
            }
            if error is not None:
                info["error"] = f"{type(error).__name__}: {error}"
            self._record.close(**info)
        except Exception as fault:
            if self._record is not None:
                self._record.fail(
                    status="failed",
                    steps=self._last_step + 1,
                    error=f"{type(fault).__name__}: {fault}",
                )
            raise

    def _release(self) -> None:
        """Waits for the trackers, records how far the dashboards are, and unlocks the run."""
        changes = self._trackers.start_info()
        mirrored = self._trackers.wait()
        if mirrored:
            changes["mirrored"] = self._info.get("mirrored", {}) | mirrored
        if changes and self._record is not None:
            self._record.update(**changes)
        if self._lock is not None:
            self._lock.release()

    def _seconds(self) -> dict[str, float]:
        now = time.monotonic()
        started_at = self._started_at or now
        compiling = started_at - self._created_at
        training = now - started_at
        return {"compile": compiling, "train": training, "total": compiling + training}

    def _final(self) -> dict[str, float]:
        """The last value of each metric; means over the last tenth of the rows for training."""
        values: dict[str, list[float]] = {}
        for columns in self._metrics:
            for name, column in columns.items():
                if name != "step":
                    known = np.ma.compressed(column).tolist()
                    values.setdefault(name, []).extend(known)
        final = {}
        for name, series in values.items():
            if name in TRAINING:
                count = max(1, round(SHARE_OF_END * len(series)))
                final[name] = float(np.mean(series[-count:]))
            elif name in EVALUATIONS and series:
                final[name] = float(series[-1])
        return final


def _make_stacks(table: LayerTable) -> list[Stack]:
    """The signals of each stack of equal layers: their outputs, and the input of the first."""
    stacks = []
    for name, layers in table.groups.items():
        signals = [layer + 1 for layer in layers]
        if layers[0] == 0:
            signals.insert(0, 0)
        members = [table.layers[layer] for layer in layers]
        stack = Stack(
            name=name or "layers",
            signals=tuple(signals),
            is_loop=all(layer.is_iteration for layer in members),
            summed_iterations=max(layer.summed_iterations for layer in members),
        )
        stacks.append(stack)
    return stacks


def _describe_layers(table: LayerTable) -> dict[str, Any]:
    """The entries of ``run.json`` about the layers."""
    layers = []
    for layer in table.layers:
        layers.append(asdict(layer))
    return {
        "layers": len(table),
        "layer_names": table.names,
        "watched": {"layers": layers, "input": table.input_name, "others": list(table.others)},
    }


def _make_config(
    watch: Watch,
    every: int,
    tracker: str | Sequence[str] | Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    tags: Sequence[str],
) -> dict[str, Any]:
    """The recorded configuration."""
    for name in RESERVED:
        if name in settings:
            raise ValueError(f"settings must not have the entry {name!r}, which Fathom writes")
    if isinstance(tags, str):
        raise ValueError(f"tags must be a list of texts, got {short_repr(tags)}")
    if not isinstance(tags, Sequence):
        raise TypeError(f"tags must be a list of texts, got {describe_argument(tags)}")
    chosen = [str(tag) for tag in tags]
    if chosen and settings.get("tags", chosen) != chosen:
        raise ValueError(
            f"settings must not have other tags than tags={chosen}, got {settings['tags']!r}"
        )
    select = watch.select
    watched = {
        "select": select if isinstance(select, str) else str(getattr(select, "__name__", select)),
        "depth": watch.depth,
        "every": every,
        "tags": chosen,
    }
    plain = _to_plain(settings)
    return {**plain, "watch": watched, "tracker": _tracker_settings(tracker)}


def _tracker_settings(tracker: str | Sequence[str] | Mapping[str, Any] | None) -> dict[str, Any]:
    defaults = {}
    for name, value in asdict(TrackerSettings()).items():
        defaults[name] = to_plain(value)
    if tracker is None or tracker == "none":
        return defaults
    if not isinstance(tracker, Mapping):
        names = [tracker] if isinstance(tracker, str) else tracker
        chosen = defaults | _switch_on(names)
        if chosen["wandb"]:
            check_mode()
            check_project(chosen)
        return chosen
    unknown = set(tracker) - set(defaults)
    if unknown:
        known = ", ".join(defaults)
        name = min(unknown)
        hint = format_suggestion(name, list(defaults))
        raise ValueError(f"tracker has no setting {name!r}{hint}; its settings are {known}")
    given = _to_plain(tracker)
    chosen = defaults | {"wandb": True} | given
    layers = TrackedLayers.__members__.get(str(chosen["layers"]), TrackedLayers.spread)
    option = TrackerSettings(**(chosen | {"layers": layers}))
    check_given_settings("tracker", option, given)
    check_trackers(option)
    if chosen["wandb"]:
        check_mode()
        check_project(chosen)
    return chosen


def _to_plain(value: Any) -> Any:
    """A value that YAML can hold: others than plain ones become text."""
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _write_config(directory: Path, config: Mapping[str, Any]) -> None:
    folder = directory / ".hydra"
    folder.mkdir(exist_ok=True)
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    (folder / "config.yaml").write_text(text, encoding="utf-8")


def _initial_info(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``run.json`` when the run starts."""
    device = jax.devices()[0]
    info: dict[str, Any] = {
        "id": uuid.uuid4().hex[:8],
        "source": SOURCE_WATCH,
        "versions": package_versions(),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
    }
    seed = settings.get("seed")
    if isinstance(seed, int) and not isinstance(seed, bool):
        info["seed"] = seed
    return info


def _rename(scalars: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers by the names of their columns, without those that are None."""
    renamed = {}
    name_of_key: dict[str, str] = {}
    for name, value in scalars.items():
        if name == "step":
            raise ValueError("step is the first argument of log and no name of a number")
        meant = _meant_name(name)
        if meant is not None and meant not in scalars:
            raise ValueError(f"log got {name}=…: did you mean {meant}=…?")
        column = METRIC_NAMES.get(name, name)
        key = METRIC_KEYS.get(column, column)  # in W&B
        if key in RESERVED_KEYS:
            raise ValueError(f"{name} is a name that Fathom or W&B writes itself: choose another")
        if value is None:
            continue
        if key in name_of_key:
            raise ValueError(
                f"{name_of_key[key]} and {name} are two names of the same number: log one of them"
            )
        name_of_key[key] = name
        _check_number(name, value)
        renamed[column] = value
    return renamed


def _meant_name(name: str) -> str | None:
    """The usual name that another one is a slip of; None where it is a name of its own.

    A slip leaves a letter out, doubles one, swaps two or has another one. A letter more, as in
    ``gloss`` or ``loss2``, makes another name.
    """
    if name in USUAL_NAMES:
        return None
    for usual in USUAL_NAMES:
        if name in _slips(usual):
            return usual
    return None


def _slips(name: str) -> set[str]:
    """The names with a letter left out, doubled, swapped with the next one, or another one."""
    slips = set()
    for position in range(len(name)):
        before = name[:position]
        letter = name[position]
        after = name[position + 1 :]
        slips |= {before + after, before + 2 * letter + after}
        slips.add(before + after[:1] + letter + after[1:])
        slips |= {before + other + after for other in ascii_lowercase}
    return slips - {name}


def _check_number(name: str, value: Any) -> None:
    """Refuses what is not one number, without waiting for the device.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, Tracer):
        raise ValueError(f"{name} must be one number, got a traced value: call log outside of jit")
    if isinstance(value, int):  # of any size
        value = _to_float(name, value)
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    is_number = jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool
    if not is_number or jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"{name} must be one number or None, got a {type(value).__name__}")
    if array.size != 1:
        raise ValueError(f"{name} must be one number, got an array of shape {array.shape}")
    if isinstance(array, np.ndarray):
        _to_float(name, array)


def _to_float(name: str, value: Any) -> float:
    """One number as it is recorded.

    Args:
        name: its name.
        value: a Python number, or an array with one entry.

    Raises:
        ValueError: it is a whole number that would be rounded.
    """
    number = value.item() if isinstance(value, np.ndarray | np.generic) else value
    is_whole = isinstance(number, int)
    if is_whole and (abs(number) > MOST_OF_FLOAT or int(float(number)) != number):
        raise ValueError(
            f"{name} must be a whole number that float64 holds exactly, such as any up to 2^53, "
            f"got {number}: log it in another unit, or as two numbers"
        )
    return float(number)


def _to_step(step: Any) -> int:
    """The number of a step.

    Raises:
        ValueError: it is no whole number, negative, or too large to be read back exactly.
    """
    try:
        number = int(step)
    except (TypeError, ValueError, OverflowError):
        number = None
    if isinstance(step, bool | np.bool_):
        number = None
    if number is None or number != step or not 0 <= number <= MOST_STEPS:
        shown = "a traced value" if isinstance(step, Tracer) else short_repr(step)
        raise ValueError(f"step must be a whole number from 0 to 2^53, got {shown}")
    return number


def _fetch(value: Any) -> np.ndarray:
    """An array from the device; of an array on several hosts, this process's copy."""
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return np.asarray(value.addressable_data(0))
    return np.asarray(value)


def _is_without_steps(directory: Path) -> bool:
    """Whether a directory holds the record of a loop that failed before its first step."""
    try:
        info = read_run_info(directory / "run.json")
        rows = read_rows(directory)
    except (DamagedRecord, DamagedTable):
        return False
    return info.get("source") == SOURCE_WATCH and rows.num_rows == 0


def _largest_interval(columns: Columns, resumed: Sequence[int]) -> int:
    """The largest distance between two steps that were logged one after the other.

    Args:
        columns: the rows.
        resumed: the steps at which a loop went on, before which rows may be lost.
    """
    if not columns:
        return 1
    steps = np.asarray(columns["step"])
    intervals = np.diff(steps)[~np.isin(steps[1:], resumed)]
    return int(intervals.max(initial=1))


def _rows_before(columns: Columns, step: int) -> Columns:
    if not columns:
        return {}
    return select_rows(columns, columns["step"] < step)


def _find_divergence(
    step: int,
    gauges: Gauges,
    total: float,
) -> Divergence | None:
    """The first number of a step that is not finite; signals that were not reached do not count.

    Args:
        step: the step.
        gauges: what was measured, on the host.
        total: the norm of the whole gradient.
    """
    was_reached = np.asarray(gauges.sums)[:, COUNT] > 0
    has_parameters = np.array([layer.parameters > 0 for layer in gauges.table.layers])
    measured = gauges.profile()
    profile = {
        ACTIVATION_RMS.name: np.where(was_reached, measured[ACTIVATION_RMS.name], 0.0),
        SIGNAL_GRAD.name: np.where(was_reached, measured[SIGNAL_GRAD.name], 0.0),
        GRAD_NORM.name: np.where(has_parameters, measured[GRAD_NORM.name], 0.0),
    }
    diverged = find_divergence(step, profile)
    is_finite = not diverged.quantity and math.isfinite(total)
    return None if is_finite else diverged


def _switch_on(names: Sequence[str]) -> dict[str, bool]:
    """The settings that switch trackers on."""
    for name in names:
        if name not in TRACKER_NAMES:
            valid = ", ".join(TRACKER_NAMES)
            hint = format_suggestion(name, TRACKER_NAMES) if isinstance(name, str) else ""
            raise ValueError(
                f"tracker must be one of {valid}, a list of them, a dictionary or None, "
                f"got {name!r}{hint}"
            )
        package = PACKAGE_OF_TRACKER.get(name)
        if package and not is_installed(package):
            raise ValueError(describe_missing_package(package))
    return dict.fromkeys(names, True)
