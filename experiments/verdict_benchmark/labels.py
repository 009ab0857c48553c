"""What is wrong with each run, by what was done to it or by its raw record, without the detectors.

The definitions were written before any run was judged, and ``labels.csv`` holds what they said
before a detector was changed. Where a number is too close to a limit, a kind is *not scored*.

``python experiments/verdict_benchmark/labels.py DIRECTORY`` writes ``labels.csv`` again.
"""

import csv
import dataclasses
import functools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from research.config.hydra_config import resource_dir
from research.config.yaml_files import parse_yaml
from research.records.runs import Run
from research.reproduce.experiments import finished_runs
from research.sweeps.jobs import expand_jobs

FILE = "labels.csv"
FIRST_TEST_SEED = 100
CHANCE = {"cross_entropy": math.log(10), "mse": 0.45}  # of digits, for the best constant
END = 20  # steps
WINDOW = 20  # steps before a step that its loss is compared with
BOUNDED = ("tanh", "sigmoid", "softsign")

# What was injected, and the step from which on it holds. It needs no measurement.
INJECTED = {
    "overflow_at_start": ("diverged", 0),  # gain^depth exceeds 10^38
    "float16_forward_large": ("diverged", 0),  # gain^depth exceeds 65,504
    "float16_forward_small": ("forward_underflow", 0),  # gain^depth is below 2^-25
    "float16_overscaled": ("overflow", 0),  # the loss scale exceeds 65,504
    "zero_weights": ("dead", 0),
    "zeros": ("dead", 0),
    "no_rate": ("not_learning", 0),
}
# The severe kinds, as this benchmark defines them. They are written down here, and not taken from
# the table of findings or from ``STOP_KINDS``, because labels must not change with the detectors
# that they judge. A kind that came later has no label; ``RawRun.is_ruined`` counts what it finds.
SEVERE = (
    "diverged",
    "forward_underflow",
    "underflow",
    "overflow",
    "dead",
    "vanishing",
    "exploding",
    "collapsed",
    "not_learning",
)
DRIFTS = ("vanishing", "exploding", "dead")
# Kinds without meaning once the training data are fitted.
ONLY_WHILE_LEARNING = (*DRIFTS, "underflow", "collapsed", "update_ratio", "hidden_gradient")
KINDS = (
    *SEVERE,
    "dead_units",
    "saturated",
    "update_ratio",
    "hidden_gradient",
    "spike",
    "overfitting",
    "edge_of_stability",
    "fitted",
)


@dataclass(frozen=True)
class Label:
    """What is wrong with a run.

    Attributes:
        family: the arm of the sweep, without its split.
        split: ``tune`` or ``test``.
        kinds: whether each kind of finding is there; kinds that are not scored are left out.
        onsets: the step from which on a kind is there, where it is known.
        is_unhealthy: whether something severe is wrong; None where neither this nor success is
            certain.
    """

    family: str
    split: str
    kinds: Mapping[str, bool]
    onsets: Mapping[str, int] = field(default_factory=dict)
    is_unhealthy: bool | None = None


@functools.cache  # the values of all grids are parsed
def families(key: str = "verdict_benchmark") -> tuple[str, ...]:
    """The arm of each run of the experiment, in the order of its runs."""
    file = resource_dir("conf") / "experiment" / f"{key}.yaml"
    sweeper = parse_yaml(file.read_text(encoding="utf-8"))["hydra"]["sweeper"]
    names = []
    for arm, grid in sweeper["arms"].items():
        names.extend([arm] * len(expand_jobs(sweeper["params"], {arm: grid})))
    return tuple(names)


def label_runs(runs: Sequence[Run], key: str = "verdict_benchmark") -> list[Label]:
    """The label of each run of the experiment.

    Args:
        runs: all runs, in the order of the sweep.
        key: the experiment.
    """
    labels = []
    for run, arm in zip(runs, families(key), strict=True):
        split, _, family = arm.partition("_")
        labels.append(label_run(run, family, split))
    return labels


def label_run(
    run: Run,
    family: str,
    split: str,
) -> Label:
    """The label of one run.

    Args:
        run: the run.
        family: the arm of the sweep, which says what was injected.
        split: ``tune`` or ``test``.
    """
    raw = RawRun(run)
    kinds = {}
    onsets = {}
    for kind, (decide, find_onset) in DEFINITIONS.items():
        is_there = decide(raw)
        if is_there is None:
            continue
        kinds[kind] = is_there
        onset = find_onset(raw) if is_there and find_onset else None
        if onset is not None:
            onsets[kind] = onset
    if kinds.get("diverged"):
        kinds = {"diverged": True}
        onsets = {"diverged": onsets["diverged"]}
    injected = INJECTED.get(family)
    if injected is not None:
        kind, onset = injected
        kinds[kind] = True
        onsets[kind] = onset
    label = Label(family, split, kinds, onsets)
    return dataclasses.replace(label, is_unhealthy=_is_unhealthy(raw, label))


def _is_unhealthy(raw: "RawRun", label: Label) -> bool | None:
    """Whether a severe kind is there, or what was learned is lost; False only of a run that learns.

    Kinds that have no meaning once the training data are fitted do not count then.
    """
    must_be_sure = SEVERE
    if not raw.is_learning:
        must_be_sure = tuple(kind for kind in SEVERE if kind not in ONLY_WHILE_LEARNING)
    if raw.is_ruined or any(label.kinds.get(kind) for kind in must_be_sure):
        return True
    is_sure = all(kind in label.kinds for kind in must_be_sure)
    return False if is_sure and raw.end_loss <= 0.7 * raw.chance else None


class RawRun:
    """The numbers of a record from which labels are made."""

    def __init__(self, run: Run):
        self.run = run
        self.chance = CHANCE[run["loss.kind"]]
        self.losses = run.metrics["train_loss"]
        self.steps = run.metrics["step"].astype(int)
        self.is_finite = run.status != "diverged" and bool(np.isfinite(self.losses).all())
        self.end_loss = float(np.mean(self.losses[-END:]))
        self.is_learning = self.end_loss > 0.03 * self.chance

    @property
    def best_loss(self) -> float:
        """The lowest mean loss of some consecutive steps."""
        means = np.convolve(self.losses, np.full(END, 1 / END), mode="valid")
        return float(np.min(means))

    @property
    def is_ruined(self) -> bool:
        """Whether most of what was learned is lost at the end."""
        return self.end_loss > max(3 * self.best_loss, 0.35 * self.chance)

    def gauge(self, name: str) -> np.ndarray:
        """A gauge over the measured steps [S, layers]."""
        return np.asarray(self.run.profiles[name], np.float64)

    @property
    def measured(self) -> np.ndarray:
        """The measured steps [S]."""
        return self.run.profiles["step"].astype(int)

    def last(self, name: str) -> np.ndarray:
        """The median of a gauge over the last tenth of the measured steps, [layers]."""
        return np.median(last_tenth(self.gauge(name)), axis=0)

    @property
    def signals(self) -> np.ndarray:
        """‖∂L/∂h_l‖ [S, layers]; of a recurrent network without its first, constant state."""
        first = 1 if self.run["model.kind"] == "rnn" else 0
        return self.gauge("signal_grad")[:, first:]

    def quotients(self, pick: str) -> np.ndarray:
        """log₁₀ of the least or greatest squared signal over that of the last layer, [S].

        Args:
            pick: ``min`` or ``max``.
        """
        signals = self.signals
        extreme = signals.min(axis=1) if pick == "min" else signals.max(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return 2 * (np.log10(extreme) - np.log10(signals[:, -1]))

    @property
    def is_cut(self) -> np.ndarray:
        """Whether the signal is exactly zero at the last layer, or from a healthy layer on, [S]."""
        signals = self.signals
        is_silent = signals[:, -1] == 0
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = signals / signals[:, -1:]
        above_zero = np.where(signals > 0, relative, np.inf).min(axis=1)
        has_zero = np.any(signals == 0, axis=1)
        return is_silent | (has_zero & (above_zero > 1e-2))


def last_tenth(values: np.ndarray) -> np.ndarray:
    """The last tenth of the rows, at least five."""
    return values[-max(5, len(values) // 10) :]


def _between(
    value: float,
    yes: float,
    no: float,
) -> bool | None:
    """True at the limit ``yes`` and beyond, False at ``no`` and beyond, None between them."""
    if yes > no:
        return True if value >= yes else (False if value <= no else None)
    return True if value <= yes else (False if value >= no else None)


def _lasting_from(holds: np.ndarray, steps: np.ndarray) -> int | None:
    """The first step from which on a condition [S] holds at nine of ten steps until the end."""
    shares = np.cumsum(holds[::-1])[::-1] / np.arange(len(holds), 0, -1)
    rows = np.flatnonzero(holds & (shares >= 0.9))
    return int(steps[rows[0]]) if len(rows) else None


def _diverged(raw: RawRun) -> bool:
    return not raw.is_finite


def _diverged_at(raw: RawRun) -> int:
    rows = np.flatnonzero(~np.isfinite(raw.losses))
    return int(raw.steps[rows[0]]) if len(rows) else int(raw.steps[-1])


def _forward_underflow(raw: RawRun) -> bool:
    if "float16" not in raw.run["precision.kind"]:
        return False
    return bool(raw.last("activation_rms").min() < 2.0**-25)


def _counts(raw: RawRun) -> np.ndarray | None:
    """The lost share of each layer's gradient at the counted steps [K, layers]."""
    if raw.run["precision.kind"] == "float32" or "signal_lost" not in raw.run.profiles:
        return None
    lost = raw.gauge("signal_lost")
    return lost[np.isfinite(lost).all(axis=1)]


def _underflow(raw: RawRun) -> bool | None:
    lost = _counts(raw)
    if lost is None or not len(lost):
        return False
    if not raw.is_learning or _forward_underflow(raw):
        return None
    return _between(float(lost[-1].max()), 0.15, 0.07)


def _overflow(raw: RawRun) -> bool | None:
    skipped = raw.run.metrics.get("skipped")
    if skipped is None or np.isnan(skipped).all():
        return False
    return _between(float(np.mean(skipped[-END:])), 0.6, 0.4)


def _overflow_at(raw: RawRun) -> int | None:
    return _lasting_from(raw.run.metrics["skipped"] > 0, raw.steps)


def _dead(raw: RawRun) -> bool | None:
    if not raw.is_learning or _counts(raw) is not None:
        return None
    return _between(float(np.mean(last_tenth(raw.is_cut))), 0.7, 0.3)


def _dead_at(raw: RawRun) -> int | None:
    return _lasting_from(raw.is_cut, raw.measured)


def _vanishing(raw: RawRun) -> bool | None:
    if not raw.is_learning or np.mean(last_tenth(raw.is_cut)) > 0.1:
        return None
    return _between(float(np.median(last_tenth(raw.quotients("min")))), -4.5, -3.5)


def _vanishing_at(raw: RawRun) -> int | None:
    return _lasting_from(raw.quotients("min") < -4, raw.measured)


def _exploding(raw: RawRun) -> bool | None:
    if not raw.is_learning or np.mean(last_tenth(raw.is_cut)) > 0.1:
        return None
    return _between(float(np.median(last_tenth(raw.quotients("max")))), 4.5, 3.5)


def _exploding_at(raw: RawRun) -> int | None:
    return _lasting_from(raw.quotients("max") > 4, raw.measured)


def _collapsed(raw: RawRun) -> bool | None:
    if not raw.is_learning:
        return None
    return _between(float(raw.last("signal_variation")[-1]), 5e-5, 2e-4)


def _collapsed_at(raw: RawRun) -> int | None:
    return _lasting_from(raw.gauge("signal_variation")[:, -1] < 1e-4, raw.measured)


def _not_learning(raw: RawRun) -> bool | None:
    return _between(raw.end_loss, 0.97 * raw.chance, 0.9 * raw.chance)


def _from_start(raw: RawRun) -> int:
    return int(raw.steps[0])


def _dead_units(raw: RawRun) -> bool | None:
    return _between(float(np.max(raw.last("dead"))), 0.8, 0.7)


def _saturated(raw: RawRun) -> bool | None:
    if raw.run["activation.kind"] not in BOUNDED:
        return False
    return _between(float(np.max(raw.last("saturated"))), 0.85, 0.75)


def _update_ratio(raw: RawRun) -> bool | None:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = raw.last("update_norm") / raw.last("weight_norm")
    if not raw.is_learning or not np.isfinite(ratios).all() or _overflow(raw):
        return None
    if ratios.max() < 1e-6:
        return _between(float(ratios.max()), 5e-7, 2e-6)
    return _between(float(np.median(ratios)), 0.12, 0.08)


def _hidden_gradient(raw: RawRun) -> bool | None:
    epsilon = raw.run["optimizer.epsilon"]
    if epsilon is None or raw.run["optimizer.kind"] == "lion":
        return False
    if raw.run["model.kind"] != "mlp" or not raw.is_learning:
        return None
    width = raw.run["model.width"]
    elements = raw.last("grad_norm") / math.sqrt(width * (width + 1))
    if not elements.min() > 0:
        return None
    return _between(float(elements.min() / epsilon), 0.5, 2.0)


def _spike(raw: RawRun) -> bool | None:
    """Whether a loss is twice that of the steps before, and at least 0.2 of chance above it."""
    is_doubtful = False
    for row in range(WINDOW, len(raw.losses)):
        before = raw.losses[row - WINDOW : row]
        middle = float(np.median(before))
        rise = float(raw.losses[row]) - middle
        low, high = np.percentile(before, [10, 90])
        noise = float(high - low)
        if rise > max(middle, 0.2 * raw.chance, 5 * noise):
            return True
        if rise > max(0.3 * middle, 0.08 * raw.chance, noise):
            is_doubtful = True
    return None if is_doubtful else False


def _overfitting(raw: RawRun) -> bool | None:
    losses = raw.run.metrics["eval_loss"]
    losses = losses[np.isfinite(losses)]
    if len(losses) < 3:
        return None
    if raw.end_loss > losses[-1] / 1.8:
        return False
    is_far = raw.end_loss < losses[-1] / 2.2
    rises = _between(float(losses[-1] / losses.min()), 1.25, 1.08)
    return None if rises and not is_far else rises


def _edge(raw: RawRun) -> bool | None:
    if "sharpness" not in (raw.run["measure.inspect"] or ()):
        return False
    sharpness = float(raw.run.inspections["sharpness"][-1])
    return _between(abs(sharpness * raw.run["optimizer.learning_rate"] / 2 - 1), 0.15, 0.3)


def _fitted(raw: RawRun) -> bool | None:
    return _between(raw.end_loss / raw.chance, 0.015, 0.03)


DEFINITIONS = {
    "diverged": (_diverged, _diverged_at),
    "forward_underflow": (_forward_underflow, None),
    "underflow": (_underflow, None),
    "overflow": (_overflow, _overflow_at),
    "dead": (_dead, _dead_at),
    "vanishing": (_vanishing, _vanishing_at),
    "exploding": (_exploding, _exploding_at),
    "collapsed": (_collapsed, _collapsed_at),
    "not_learning": (_not_learning, _from_start),
    "dead_units": (_dead_units, None),
    "saturated": (_saturated, None),
    "update_ratio": (_update_ratio, None),
    "hidden_gradient": (_hidden_gradient, None),
    "spike": (_spike, None),
    "overfitting": (_overfitting, None),
    "edge_of_stability": (_edge, None),
    "fitted": (_fitted, None),
}


def write_labels(
    runs: Sequence[Run],
    labels: Sequence[Label],
    file: Path,
) -> None:
    """Writes labels as a table, one row a run.

    Args:
        runs: the runs.
        labels: their labels.
        file: the file to write.
    """
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["run", "family", "split", "unhealthy", "yes", "not_scored", "onsets"])
        for run, label in zip(runs, labels, strict=True):
            is_unhealthy = {True: "yes", False: "no", None: ""}[label.is_unhealthy]
            present = [kind for kind in KINDS if label.kinds.get(kind)]
            unscored = [kind for kind in KINDS if kind not in label.kinds]
            onsets = [f"{kind}:{step}" for kind, step in label.onsets.items()]
            columns = [" ".join(names) for names in (present, unscored, onsets)]
            writer.writerow([run.directory.name, label.family, label.split, is_unhealthy, *columns])


def read_labels(file: Path) -> list[Label]:
    """The labels of a table, in its order."""
    labels = []
    with file.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            unscored = row["not_scored"].split()
            present = row["yes"].split()
            kinds = {kind: kind in present for kind in KINDS if kind not in unscored}
            onsets = {}
            for entry in row["onsets"].split():
                kind, _, step = entry.partition(":")
                onsets[kind] = int(step)
            is_unhealthy = {"yes": True, "no": False, "": None}[row["unhealthy"]]
            labels.append(Label(row["family"], row["split"], kinds, onsets, is_unhealthy))
    return labels


def frozen_labels() -> list[Label]:
    """The labels as they were before any detector was changed, in the order of the sweep."""
    return read_labels(Path(__file__).parent / FILE)


def main(directory: Path) -> None:
    """Labels the runs in a directory and writes ``labels.csv``."""
    runs = finished_runs("verdict_benchmark", directory)
    write_labels(runs, label_runs(runs), Path(__file__).parent / FILE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
