"""Verdicts against labels: confusion matrix, precision, recall, balanced accuracy, onset."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from research.records.runs import Run
from research.reproduce.experiments import load_module

LABELS = load_module("verdict_benchmark", "labels")
HEALTHY = "healthy"
RUINED = ("spike", "slow_divergence")  # what is said of a run that lost what it had learned
NEVER_OVER = ("spike",)  # a finding of this kind counts although it ended
PEERS = "peers.csv"


@dataclass(frozen=True)
class Judged:
    """A verdict and the label of the same run.

    Attributes:
        label: what is wrong with the run.
        verdict: ``verdict`` of ``run.json``.
        steps: the steps of the run.
    """

    label: Any
    verdict: Mapping[str, Any]
    steps: int

    @property
    def says_unhealthy(self) -> bool:
        """Whether the verdict has a severe finding."""
        return self.verdict["kind"] != HEALTHY

    @property
    def found(self) -> set[str]:
        """The kinds that the verdict names for the end of the run."""
        kinds = set()
        for finding in self.verdict["findings"]:
            is_over = finding["last_step"] is not None
            if not is_over or finding["kind"] in NEVER_OVER:
                kinds.add(finding["kind"])
        return kinds

    @property
    def onset_error(self) -> float | None:
        """The distance of the headline's first step from the label's, as a share of the run.

        None where the headline is of a kind that the label does not have, or without a step.
        """
        kind = self.verdict["kind"]
        expected = self.label.onsets.get(kind)
        if expected is None or not self.label.kinds.get(kind):
            return None
        first = self.verdict["since_step"]
        return 1.0 if first is None else abs(first - expected) / self.steps


def read_judged(
    runs: Sequence[Run],
    labels: Sequence[Any],
    split: str,
) -> list[Judged]:
    """The runs of a split.

    Args:
        runs: all runs.
        labels: their labels, in the same order.
        split: ``tune`` or ``test``.
    """
    judged = []
    for run, label in zip(runs, labels, strict=True):
        if label.split == split:
            steps = run["train.steps"]
            judged.append(Judged(label, run.info["verdict"], steps))
    return judged


@dataclass(frozen=True)
class KindScore:
    """How often a kind is found where it is, and is where it is found.

    Attributes:
        kind: the kind of finding.
        hits: runs that have it and whose verdict names it.
        misses: runs that have it and whose verdict does not.
        false_alarms: runs that do not have it and whose verdict names it.
    """

    kind: str
    hits: int
    misses: int
    false_alarms: int

    @property
    def precision(self) -> float:
        """The share of right ones among those named; NaN where none is."""
        named = self.hits + self.false_alarms
        return self.hits / named if named else np.nan

    @property
    def recall(self) -> float:
        """The share of named ones among those that are there; NaN where none is."""
        there = self.hits + self.misses
        return self.hits / there if there else np.nan


def score_kinds(judged: Sequence[Judged]) -> list[KindScore]:
    """The score of each kind that a run has or a verdict names."""
    scores = []
    for kind in LABELS.KINDS:
        hits = 0
        misses = 0
        false_alarms = 0
        for one in judged:
            expected = one.label.kinds.get(kind)
            is_found = kind in one.found
            hits += expected is True and is_found
            misses += expected is True and not is_found
            false_alarms += expected is False and is_found
        if hits + misses + false_alarms:
            scores.append(KindScore(kind, hits, misses, false_alarms))
    return scores


@dataclass(frozen=True)
class Confusion:
    """Runs by label (unhealthy or healthy) and by verdict (with a severe finding or without)."""

    found: int
    missed: int
    clear: int
    alarmed: int

    @property
    def sensitivity(self) -> float:
        """The share of unhealthy runs with a severe finding."""
        return self.found / (self.found + self.missed)

    @property
    def specificity(self) -> float:
        """The share of healthy runs without one."""
        return self.clear / (self.clear + self.alarmed)

    @property
    def balanced_accuracy(self) -> float:
        """The mean of both."""
        return (self.sensitivity + self.specificity) / 2


def confuse(judged: Sequence[Judged]) -> Confusion:
    """Counts the runs whose label says whether they are healthy."""
    answers = [one.says_unhealthy for one in judged]
    return _confuse_answers(judged, answers)


def _confuse_answers(judged: Sequence[Judged], answers: Sequence[bool]) -> Confusion:
    """Counts the runs whose label says whether they are healthy, by what a tool says of them."""
    counts = {(True, True): 0, (True, False): 0, (False, False): 0, (False, True): 0}
    for one, says_unhealthy in zip(judged, answers, strict=True):
        if one.label.is_unhealthy is not None:
            counts[one.label.is_unhealthy, says_unhealthy] += 1
    return Confusion(
        found=counts[True, True],
        missed=counts[True, False],
        clear=counts[False, False],
        alarmed=counts[False, True],
    )


def onset_errors(judged: Sequence[Judged]) -> list[float]:
    """The onset error of every unhealthy run whose headline is of a labelled kind."""
    errors = []
    for one in judged:
        error = one.onset_error
        if error is not None and one.label.is_unhealthy:
            errors.append(error)
    return errors


def headline_matrix(judged: Sequence[Judged]) -> tuple[list[str], np.ndarray]:
    """Which verdict runs get that have a kind: kinds, and counts [expected, verdict].

    A run with several severe kinds counts as the one that its verdict names, if it is one of them,
    else as the first of them.
    """
    kinds = [*LABELS.SEVERE, *RUINED, HEALTHY]
    counts = np.zeros((len(kinds), len(kinds)), int)
    for one in judged:
        if one.label.is_unhealthy is None:
            continue
        verdict = one.verdict["kind"]
        expected = _expected_headlines(one)
        row = verdict if verdict in expected else expected[0]
        counts[kinds.index(row), kinds.index(verdict)] += 1
    return kinds, counts


def _expected_headlines(one: Judged) -> list[str]:
    if not one.label.is_unhealthy:
        return [HEALTHY]
    kinds = [kind for kind in LABELS.SEVERE if one.label.kinds.get(kind)]
    return kinds or list(RUINED)


@dataclass(frozen=True)
class Reading:
    """What of a tool's findings counts as saying that a run is unhealthy.

    Attributes:
        title: in words.
        column: of ``peers.csv``.
        ignored: findings that do not count.
    """

    title: str
    column: str
    ignored: Sequence[str] = ()

    def says_unhealthy(self, row: Mapping[str, str]) -> bool:
        """Whether a row of ``peers.csv`` has a finding that counts."""
        for entry in row[self.column].split():
            finding, _, _ = entry.partition(":")
            if finding not in self.ignored:
                return True
        return False


READINGS = (
    Reading("torchmortem: a critical finding", "torchmortem"),
    Reading("torchmortem: one but saturation", "torchmortem", ignored=("saturation",)),
    Reading("trainscope: a spike", "trainscope"),
    Reading("trainscope: a spike upwards", "trainscope", ignored=("fall",)),
    Reading("traintools: a lasting warning", "traintools"),
)


def read_peers() -> dict[str, dict[str, str]]:
    """What other tools found, by the name of the run; empty where they were not tried."""
    with (Path(__file__).parent / PEERS).open(newline="", encoding="utf-8") as stream:
        return {row["run"]: row for row in csv.DictReader(stream)}


def compare_tools(runs: Sequence[Run], labels: Sequence[Any]) -> dict[str, Confusion]:
    """The confusion of Fathom and of each reading of its peers, on the runs that all examined.

    Args:
        runs: all runs.
        labels: their labels, in the same order.
    """
    peers = read_peers()
    examined = []
    rows = []
    for run, label in zip(runs, labels, strict=True):
        row = peers.get(run.directory.name)
        if row is not None:
            examined.append(Judged(label, run.info["verdict"], run["train.steps"]))
            rows.append(row)
    if not examined:
        return {}
    compared = {"fathom: a severe finding": confuse(examined)}
    for reading in READINGS:
        answers = [reading.says_unhealthy(row) for row in rows]
        compared[reading.title] = _confuse_answers(examined, answers)
    return compared
