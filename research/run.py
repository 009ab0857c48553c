"""One run: from a configuration to its record. The host loop lives here; all numbers come from the program."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.config import Config, plain, tree
from research.gauges.verdict import judge
from research.job import Job, predicted_factor, prepare, run_id
from research.progress import Progress
from research.provenance import git, versions
from research.records.record import Record, read_finished
from research.records.trackers import Background
from research.records.trackers.wandb import WandbTracker
from research.training.precision import scope
from research.training.program import make_program

SECONDS_A_CHUNK = 0.5  # about how long the device works before the host looks
Columns = dict[str, np.ndarray]


def train(config: Config, directory: Path, progress: Progress) -> dict[str, Any]:
    """Trains one run and records it in ``directory``; a run that is there already, done, is left as it is.

    Returns:
        The content of ``run.json``.
    """
    study = directory.absolute().parent.name
    identity = run_id(study, config)
    finished = read_finished(directory, identity)
    if finished:
        return finished
    with scope(config.precision.kind.name):
        job = prepare(config)
        info = _described(config, job, identity)
        record = Record(directory, info)
        trackers = Background(_trackers(config, directory, study, identity))
        return _Recorded(config, job, record, trackers).run(progress)


class _Recorded:
    """A job while it runs: its record, its trackers, and what was seen of it so far."""

    def __init__(self, config: Config, job: Job, record: Record, trackers: Background):
        self.config, self.job, self.record, self.trackers = config, job, record, trackers
        self.metrics: list[Columns] = []
        self.profiles: list[Columns] = []
        self.diverged: tuple[int, int | None] | None = None
        self.started = time.monotonic()
        self.compiled = self.started

    def run(self, progress: Progress) -> dict[str, Any]:
        """The whole run; whatever ends it, what was measured is written."""
        status = "failed"
        try:
            self._loop(progress)
            status = "diverged" if self.diverged else "done"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            self._close(status)
        return self.record.info

    def _loop(self, progress: Progress) -> None:
        job, program = self.job, make_program(self.job.spec)
        state = program.init(job.hp)
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        self.record.update(parameters=int(count))
        pending = None
        for start, steps in chunks(job.steps, job.eval_every, job.spec.capacity, self._pace):
            state, rows = program.chunk(state, job.hp, job.data, jnp.int32(start), jnp.int32(steps))
            due = (start + steps) % job.eval_every == 0 or start + steps == job.steps
            evaluation = program.evaluate(state, job.hp, job.data) if due else {}
            if pending:  # the previous chunk is fetched while the device works on this one
                self._take(*pending, progress)
            pending = (start, steps, rows, evaluation)
            if start == 0:
                self._first(rows)
            if self.diverged:
                return
        if pending:
            self._take(*pending, progress)

    def _first(self, rows: dict[str, Any]) -> None:
        jax.block_until_ready(rows)
        self.compiled = time.monotonic()
        self.trackers.start()

    def _pace(self, done: int) -> float:
        """Seconds a step, once compiled."""
        return (time.monotonic() - self.compiled) / max(done - 1, 1)

    def _take(self, start: int, steps: int, rows: dict[str, Any], evaluation: dict, progress: Progress) -> None:
        """Fetches a chunk's rows and hands them to the record, the trackers and the display."""
        rows = jax.tree.map(lambda column: np.asarray(column[0])[:steps], rows)
        evaluation = {name: float(value[0]) for name, value in evaluation.items()}
        bad = np.flatnonzero(~rows["finite"])
        if len(bad):
            steps, evaluation = int(bad[0]) + 1, {}
            rows = jax.tree.map(lambda column: column[:steps], rows)
            self.diverged = start + steps - 1, first_bad_layer(rows.get("profile", {}), steps - 1)
        step = np.arange(start, start + steps)
        metrics, profiles = self._columns(step, rows, evaluation)
        self.metrics.append(metrics)
        self.profiles.append(profiles)
        self.record.add(metrics, profiles)
        self.trackers.log(metrics, profiles)
        progress.step(start + steps, self.job.steps, loss=float(rows["train_loss"][-1]), **evaluation)

    def _columns(self, step: np.ndarray, rows: dict[str, Any], evaluation: dict[str, float]) -> tuple[Columns, Columns]:
        measured = step % self.config.measure.every == 0
        metrics: Columns = {"step": step, "epoch": step / self.job.per_epoch}
        metrics |= {name: rows[name] for name in ("train_loss", "train_accuracy", "learning_rate", "loss_scale")}
        for name in ("eval_loss", "eval_accuracy"):
            column = np.ma.masked_all(len(step))
            if name in evaluation:
                column[-1] = evaluation[name]
            metrics[name] = column
        if "profile" not in rows:
            return metrics, {}
        metrics["grad_norm"] = np.ma.masked_array(rows["grad_norm"], ~measured)
        profiles = {name: values[measured] for name, values in rows["profile"].items()}
        return metrics, {"step": step[measured]} | profiles

    def _close(self, status: str) -> None:
        self.job_seconds = time.monotonic() - self.compiled
        compile_seconds = self.compiled - self.started
        seconds = {"compile": compile_seconds, "train": self.job_seconds, "total": compile_seconds + self.job_seconds}
        self.record.update(**self.trackers.described())
        self.record.close(
            status=status, seconds=seconds, steps=self._steps(), final=self._final(), verdict=self._verdict()
        )
        self.trackers.finish(self.record.info)

    def _steps(self) -> int:
        return int(self.metrics[-1]["step"][-1]) + 1 if self.metrics else 0

    def _final(self) -> dict[str, float | None]:
        """Training numbers as means over the last epoch, held-out numbers as last seen."""
        names = ("train_loss", "train_accuracy")
        final: dict[str, float | None] = {
            name: float(np.mean(self._column(name)[-self.job.per_epoch :])) for name in names if self.metrics
        }
        for name in ("eval_loss", "eval_accuracy"):
            seen = np.ma.compressed(self._column(name)) if self.metrics else np.zeros(0)
            final[name] = float(seen[-1]) if len(seen) else None
        return final

    def _column(self, name: str) -> np.ndarray:
        return np.ma.concatenate([metrics[name] for metrics in self.metrics])

    def _verdict(self) -> dict[str, Any] | None:
        measured = [profiles for profiles in self.profiles if len(profiles.get("step", []))]
        if not measured and not self.diverged:
            return None
        signal = np.concatenate([rows["signal_grad"] for rows in measured]) if measured else np.zeros((0, 2))
        steps = np.concatenate([rows["step"] for rows in measured]) if measured else np.zeros(0, int)
        theory = predicted_factor(self.config, self.job)
        settings = plain(self.config)
        return judge(steps, signal, settings=settings, theory=theory, diverged=self.diverged).as_dict()


def chunks(steps: int, eval_every: int, capacity: int, pace: Callable[[int], float]) -> Iterator[tuple[int, int]]:
    """(start, count) of the pieces a run is trained in: one step, then up to the next evaluation.

    Pieces are as long as ``SECONDS_A_CHUNK`` allows at ``pace(done)`` seconds a step; how a run is cut does not
    change its numbers.
    """
    start = 0
    while start < steps:
        until_evaluation = eval_every - start % eval_every
        affordable = 1 if start == 0 else max(1, int(SECONDS_A_CHUNK / max(pace(start), 1e-9)))
        count = min(until_evaluation, steps - start, capacity, affordable)
        yield start, count
        start += count


def first_bad_layer(profile: dict[str, np.ndarray], row: int) -> int | None:
    """The layer where a step's numbers first stopped being finite: in forward order, else in backward order."""
    if not profile:
        return None
    forward = np.flatnonzero(~np.isfinite(profile["activation_rms"][row]))
    if len(forward):
        return int(forward[0])
    for name, offset in (("signal_grad", 0), ("grad_norm", 1)):
        backward = np.flatnonzero(~np.isfinite(profile[name][row]))
        if len(backward):
            return int(backward[-1]) + offset
    return None


def _trackers(config: Config, directory: Path, study: str, identity: str) -> list[Any]:
    if not config.tracker.wandb:
        return []
    resolved = tree(config)
    name = directory.name
    return [WandbTracker(settings=resolved["tracker"], run_id=identity, name=name, group=study, config=resolved)]


def _described(config: Config, job: Job, identity: str) -> dict[str, Any]:
    """``run.json`` as it stands when the run starts."""
    device = jax.devices()[0]
    data = job.dataset
    fingerprint = {"name": data.name, "version": data.version, "split": data.split, "fingerprint": data.fingerprint()}
    return {
        "id": identity,
        "seed": config.seed,
        "versions": versions(),
        "git": git(),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "layers": config.model.depth,
        "data": fingerprint,
    }
