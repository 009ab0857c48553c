"""What becomes of a run's rows: its record, its trackers, and at the end the verdict."""

import contextlib
import time
from typing import Any

import jax
import numpy as np

from research.config.schema import flatten, to_dict
from research.diagnosis.underflow import judge_underflow
from research.diagnosis.verdict import judge
from research.parallel.processes import is_primary
from research.records.record import NullRecord
from research.records.trackers import Background
from research.records.trackers.wandb import WandbTracker
from research.runner.provenance import git, versions
from research.runner.resume import take_up
from research.runner.run_setup import RunSetup, predicted_factor
from research.runner.run_spec import RunSpec
from research.theory.formats import gauges_from_counts
from research.training.checkpoint import Checkpoints
from research.training.precision import POLICIES

Columns = dict[str, np.ndarray]
SCALARS = ("train_loss", "train_accuracy", "learning_rate", "loss_scale", "skipped")
HELD_OUT = ("eval_loss", "eval_accuracy")


class RunWriter:
    """A run while it lasts."""

    def __init__(self, member: RunSpec, job: RunSetup, together: int):
        """``together``: how many runs are trained as one program; the run's seconds are those of all."""
        self.config = member.config
        self.job = job
        described = _described(member, job) | {"together": together}
        if is_primary():
            self.record, self.checkpoint, self._recalled = take_up(member, job, described)
        else:
            self.record = NullRecord(described)
            self.checkpoint = None
            self._recalled = []
        self.checkpoints = Checkpoints(member.directory)
        self.trackers = Background(_trackers(member) if is_primary() else [])
        self.diverged: tuple[int, int | None] | None = (
            None  # step and layer of the first value that is not finite
        )
        self._metrics: list[Columns] = []
        self._signal: list[Columns] = []
        self._exponents: dict[int, Columns] = {}  # by step
        self._began = self._trained = time.monotonic()
        self._before = {"compile": 0.0, "train": 0.0}  # seconds of earlier attempts
        if self.checkpoint:
            self._before = self.checkpoint.notes["seconds"]
            self._recall(*self._recalled[:2])

    def _recall(self, metrics: Columns, profiles: Columns) -> None:
        """Knows again what an earlier attempt recorded."""
        self._metrics = [metrics]
        self._signal = (
            [{name: profiles[name] for name in ("step", "signal_grad")}] if profiles else []
        )
        counted = profiles.get("signal_exponent", np.zeros((0, 1, 1)))
        for row in np.flatnonzero(~np.isnan(counted[:, 0, 0])):
            gauges = {name: values[row] for name, values in profiles.items() if name != "step"}
            self._exponents[int(profiles["step"][row])] = gauges

    def count(self, parameters: int) -> None:
        """Notes how many parameters the network has."""
        self.record.update(parameters=parameters)

    def compiled(self) -> None:
        """The first step is done: from here on time is training time. Trackers open now, behind the first step.

        They get the rows of an earlier attempt too, and leave out those that they have.
        """
        self._trained = time.monotonic()
        self.trackers.start()
        if self._recalled:
            metrics, profiles, inspections = self._recalled
            self.trackers.log(metrics, profiles, _by_step(inspections, self._exponents))
            self._recalled = []

    def notes(self) -> dict[str, Any]:
        """What a checkpoint of this moment holds beside the state; the rows up to here are written by then."""
        info = self.record.info
        told = {
            "id": info["id"],
            "data": info["data"]["fingerprint"],
            "resumed": info.get("resumed", []),
        }
        return told | {"seconds": self._seconds(), "rows": self.record.flush()}

    def _seconds(self) -> dict[str, float]:
        """Of all attempts, as far as they count."""
        now = time.monotonic()
        before = self._before
        compiling = self._trained - self._began
        training = now - self._trained
        return {"compile": before["compile"] + compiling, "train": before["train"] + training}

    def take(
        self, start: int, rows: dict[str, Any], held_out: dict[str, float], beside: dict[str, Any]
    ) -> None:
        """Hands the rows of steps from ``start`` on to the record and the trackers.

        ``beside`` was measured in front of step ``start``: ``exponents`` or ``inspections`` or neither.

        Rows behind the first that is not finite mean nothing and are dropped.
        """
        steps = len(rows["finite"])
        bad = np.flatnonzero(~rows["finite"])
        if len(bad):
            steps = int(bad[0]) + 1
            held_out = {}
            rows = jax.tree.map(lambda column: column[:steps], rows)
            step = start + steps - 1
            measured = step % self.config.measure.every == 0
            self.diverged = (
                step,
                first_bad_layer(rows.get("profile", {}), steps - 1) if measured else None,
            )
        metrics, profiles = self._columns(np.arange(start, start + steps), rows, held_out)
        self._metrics.append(metrics)
        if profiles:
            self._signal.append({name: profiles[name] for name in ("step", "signal_grad")})
        gauged = self._gauged(start, beside.get("exponents"))
        inspected = beside.get("inspections", {})
        self._record(metrics, profiles, gauged)
        self.record.inspect(start, inspected)
        self.trackers.log(metrics, profiles, {start: gauged | inspected})

    def _gauged(self, step: int, exponents: dict[str, Any] | None) -> Columns:
        """Gauges of the exponents that were counted at ``step``."""
        if not exponents:
            return {}
        policy = POLICIES[self.config.precision.kind.name]
        self._exponents[step] = gauges_from_counts(exponents, policy.compute, policy.narrowest)
        return self._exponents[step]

    def _record(self, metrics: Columns, profiles: Columns, gauged: Columns) -> None:
        """``gauged`` is of the first of the measured steps alone: the others hold null there."""
        if gauged and profiles:
            first = {name: values[:1] for name, values in profiles.items()}
            self.record.add({}, first | {name: values[None] for name, values in gauged.items()})
            profiles = {name: values[1:] for name, values in profiles.items()}
        self.record.add(metrics, profiles)

    def _columns(
        self, step: np.ndarray, rows: dict[str, Any], held_out: dict[str, float]
    ) -> tuple[Columns, Columns]:
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

    def close(self, error: BaseException | None = None) -> None:
        """Ends the run and writes what was measured; ``error``: what ended it before its time."""
        steps = int(self._metrics[-1]["step"][-1]) + 1 if self._metrics else 0
        status = "diverged" if self.diverged else "done"
        if isinstance(error, KeyboardInterrupt):
            status = status if self.diverged or steps == self.job.steps else "interrupted"
        elif error is not None:
            status = "failed"
        seconds = self._seconds()
        seconds["total"] = seconds["compile"] + seconds["train"]
        ended: dict[str, Any] = {
            "status": status,
            "seconds": seconds,
            "steps": steps,
            **self.trackers.described(),
        }
        if status == "failed":
            ended["error"] = f"{type(error).__name__}: {error}"
        goes_on = status in ("interrupted", "failed") and self.checkpoints.exist
        with contextlib.ExitStack() as behind:
            behind.callback(self.record.release)  # once all is written, trackers' files too
            behind.callback(lambda: self.trackers.finish(self.record.info))
            self.record.close(
                **ended, goes_on=goes_on, final=self._final(), verdict=self._verdict()
            )
            if is_primary() and not goes_on and not self.config.checkpoint.keep:
                self.checkpoints.remove()

    def _final(self) -> dict[str, float | None]:
        """Training numbers as means over the last epoch, held-out numbers as last seen."""
        if not self._metrics:
            return {}
        column = {
            name: np.ma.concatenate([m[name] for m in self._metrics])
            for name in (*SCALARS[:2], *HELD_OUT)
        }
        final: dict[str, float | None] = {}
        for name in SCALARS[:2]:
            last = np.ma.compressed(column[name][-self.job.per_epoch :])
            final[name] = float(np.mean(last)) if len(last) else None
        seen = {name: np.ma.compressed(column[name]) for name in HELD_OUT}
        return final | {
            name: float(values[-1]) if len(values) else None for name, values in seen.items()
        }

    def _verdict(self) -> dict[str, Any] | None:
        """None for a run that measured nothing and did not diverge."""
        measured = {
            "step": np.zeros(0, int),
            "signal_grad": np.zeros((0, self.job.spec.architecture.layers + 1)),
        }
        for name in measured if self._signal else ():
            measured[name] = np.concatenate([rows[name] for rows in self._signal])
        if not len(measured["step"]) and not self.diverged:
            return None
        theory = predicted_factor(self.config, self.job)
        first = (
            1 if self.job.spec.architecture.shared else 0
        )  # a recurrent network begins with zeros
        told = {
            "settings": flatten(self.config),
            "theory": theory,
            "diverged": self.diverged,
            "start_layer": first,
        }
        verdict = judge(measured["step"], measured["signal_grad"], **told)
        narrowest = POLICIES[self.config.precision.kind.name].narrowest
        counted = list(self._exponents), list(self._exponents.values())
        return judge_underflow(
            verdict, *counted, format_=narrowest, settings=told["settings"]
        ).as_dict()


def _by_step(inspections: Columns, exponents: dict[int, Columns]) -> dict[int, Columns]:
    """What was measured beside each step, from the rows that were recorded of it."""
    beside = {step: dict(gauges) for step, gauges in exponents.items()}
    for row, step in enumerate(inspections.get("step", np.zeros(0, int)).tolist()):
        beside[step] = beside.get(step, {}) | {
            name: values[row] for name, values in inspections.items()
        }
    return beside


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


def _trackers(member: RunSpec) -> list[Any]:
    if not member.config.tracker.wandb:
        return []
    resolved = to_dict(member.config)
    names = {"name": member.directory.name, "group": member.directory.absolute().parent.name}
    return [
        WandbTracker(settings=resolved["tracker"], run_id=member.identity, config=resolved, **names)
    ]


def _described(member: RunSpec, job: RunSetup) -> dict[str, Any]:
    """``run.json`` as it stands when the run starts."""
    device = jax.devices()[0]
    data = job.dataset
    fingerprint = {
        "name": data.name,
        "version": data.version,
        "split": data.split,
        "fingerprint": data.fingerprint(),
    }
    fingerprint |= {"examples": data.examples, "class_counts": data.class_counts}
    if data.vocabulary:
        fingerprint |= {"symbols": data.symbols, "unigram_entropy": data.unigram_entropy}
    return {
        "id": member.identity,
        "seed": member.config.seed,
        "versions": versions(),
        "git": git(),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
        "layers": job.spec.architecture.layers,
        "data": fingerprint,
    }
