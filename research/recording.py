"""What becomes of a run's rows: its record, its trackers, the display, and at the end the verdict."""

import time
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from research.config import Config, plain, tree
from research.gauges.verdict import judge
from research.job import Job, predicted_factor
from research.progress import Progress
from research.provenance import git, versions
from research.records.record import Record
from research.records.trackers import Background
from research.records.trackers.wandb import WandbTracker

Columns = dict[str, np.ndarray]
SCALARS = ("train_loss", "train_accuracy", "learning_rate", "loss_scale")
HELD_OUT = ("eval_loss", "eval_accuracy")


class Recording:
    """A run while it lasts; whatever ends it, leaving the context writes what was measured."""

    def __init__(self, config: Config, job: Job, directory: Path, identity: str, progress: Progress):
        self.config, self.job, self.progress = config, job, progress
        self.record = Record(directory, _described(config, job, identity))
        self.trackers = Background(_trackers(config, directory, identity))
        self.diverged: tuple[int, int | None] | None = None  # step and layer of the first value that is not finite
        self._metrics: list[Columns] = []
        self._signal: list[Columns] = []
        self._began = self._trained = time.monotonic()
        self._fetched = 0, self._began  # steps whose rows have arrived, and when the last did

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        status = "diverged" if self.diverged else "done"
        if error is not None:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        self._close(status, error)

    def count(self, params: Any) -> None:
        """Notes how many parameters the network has."""
        self.record.update(parameters=sum(leaf.size for leaf in jax.tree.leaves(params)))

    def compiled(self) -> None:
        """The first step is done: from here on time is training time. Trackers open now, behind the first step."""
        self._trained = time.monotonic()
        self.trackers.start()

    def pace(self) -> float | None:
        """Seconds a step behind the first, from rows that have arrived; None before there are any."""
        steps, when = self._fetched
        return (when - self._trained) / (steps - 1) if steps > 1 else None

    def take(self, start: int, steps: int, rows: dict[str, Any], evaluation: dict[str, Any]) -> None:
        """Fetches a chunk's rows and hands them to the record, the trackers and the display.

        Rows behind the first that is not finite mean nothing and are dropped.
        """
        # Indexing on the device would queue behind the chunk that it is working on: fetch whole, then cut.
        rows = jax.tree.map(lambda column: np.asarray(column)[0, :steps], rows)
        held_out = {name: float(np.asarray(value)[0]) for name, value in evaluation.items()}
        bad = np.flatnonzero(~rows["finite"])
        if len(bad):
            steps, held_out = int(bad[0]) + 1, {}
            rows = jax.tree.map(lambda column: column[:steps], rows)
            step = start + steps - 1
            measured = step % self.config.measure.every == 0
            self.diverged = step, first_bad_layer(rows.get("profile", {}), steps - 1) if measured else None
        metrics, profiles = self._columns(np.arange(start, start + steps), rows, held_out)
        self._metrics.append(metrics)
        self._fetched = start + steps, time.monotonic()
        if profiles:
            self._signal.append({name: profiles[name] for name in ("step", "signal_grad")})
        self.record.add(metrics, profiles)
        self.trackers.log(metrics, profiles)
        shown = {name: value for name, value in held_out.items() if value == value}
        self.progress.step(start + steps, self.job.steps, loss=float(rows["train_loss"][-1]), **shown)

    def _columns(self, step: np.ndarray, rows: dict[str, Any], held_out: dict[str, float]) -> tuple[Columns, Columns]:
        """The rows as columns of ``metrics.parquet`` and ``profiles.parquet``."""
        metrics: Columns = {"step": step, "epoch": step / self.job.per_epoch}
        metrics |= {name: rows[name] for name in SCALARS}
        if self.job.dataset.real:
            metrics["train_accuracy"] = np.ma.masked_all(len(step))
            held_out = {name: value for name, value in held_out.items() if name != "eval_accuracy"}
        for name in HELD_OUT:
            metrics[name] = np.ma.masked_all(len(step))
            if name in held_out:
                metrics[name][-1] = held_out[name]
        if "profile" not in rows:
            return metrics, {}
        measured = step % self.config.measure.every == 0
        metrics["grad_norm"] = np.ma.masked_array(rows["grad_norm"], ~measured)
        profiles = {name: values[measured] for name, values in rows["profile"].items()}
        return metrics, {"step": step[measured]} | profiles

    def _close(self, status: str, error: BaseException | None) -> None:
        now = time.monotonic()
        compiling = self._trained - self._began
        seconds = {"compile": compiling, "train": now - self._trained, "total": now - self._began}
        self.record.update(**self.trackers.described())
        if status == "failed":
            self.record.update(error=f"{type(error).__name__}: {error}")
        steps = int(self._metrics[-1]["step"][-1]) + 1 if self._metrics else 0
        final, verdict = self._final(), self._verdict()
        self.record.close(status=status, seconds=seconds, steps=steps, final=final, verdict=verdict)
        self.trackers.finish(self.record.info)

    def _final(self) -> dict[str, float | None]:
        """Training numbers as means over the last epoch, held-out numbers as last seen."""
        if not self._metrics:
            return {}
        column = {name: np.ma.concatenate([m[name] for m in self._metrics]) for name in (*SCALARS[:2], *HELD_OUT)}
        final: dict[str, float | None] = {}
        for name in SCALARS[:2]:
            last = np.ma.compressed(column[name][-self.job.per_epoch :])
            final[name] = float(np.mean(last)) if len(last) else None
        seen = {name: np.ma.compressed(column[name]) for name in HELD_OUT}
        return final | {name: float(values[-1]) if len(values) else None for name, values in seen.items()}

    def _verdict(self) -> dict[str, Any] | None:
        """None for a run that measured nothing and did not diverge."""
        measured = {"step": np.zeros(0, int), "signal_grad": np.zeros((0, self.job.spec.architecture.layers + 1))}
        for name in measured if self._signal else ():
            measured[name] = np.concatenate([rows[name] for rows in self._signal])
        if not len(measured["step"]) and not self.diverged:
            return None
        theory = predicted_factor(self.config, self.job)
        told = {"settings": plain(self.config), "theory": theory, "diverged": self.diverged}
        return judge(measured["step"], measured["signal_grad"], **told).as_dict()


def first_bad_layer(profile: dict[str, np.ndarray], row: int) -> int | None:
    """The layer where a step's numbers first stopped being finite: in forward order, else in backward order."""
    if not profile:
        return None
    forward = np.flatnonzero(~np.isfinite(profile["activation_rms"][row]))
    if len(forward):
        return int(forward[0])
    for name in ("signal_grad", "grad_norm"):
        backward = np.flatnonzero(~np.isfinite(profile[name][row]))
        if len(backward):
            return int(backward[-1])
    return None


def _trackers(config: Config, directory: Path, identity: str) -> list[Any]:
    if not config.tracker.wandb:
        return []
    resolved = tree(config)
    names = {"name": directory.name, "group": directory.absolute().parent.name}
    return [WandbTracker(settings=resolved["tracker"], run_id=identity, config=resolved, **names)]


def _described(config: Config, job: Job, identity: str) -> dict[str, Any]:
    """``run.json`` as it stands when the run starts."""
    device = jax.devices()[0]
    data = job.dataset
    fingerprint = {"name": data.name, "version": data.version, "split": data.split, "fingerprint": data.fingerprint()}
    fingerprint |= {"examples": data.examples, "class_counts": data.class_counts}
    if data.vocabulary:
        fingerprint |= {"symbols": data.symbols, "unigram_entropy": data.unigram_entropy}
    return {
        "id": identity,
        "seed": config.seed,
        "versions": versions(),
        "git": git(),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "layers": job.spec.architecture.layers,
        "data": fingerprint,
    }
