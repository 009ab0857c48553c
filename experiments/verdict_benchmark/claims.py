"""Claims about how often the verdict and its advice are right.

Their thresholds were set before the runs.
"""

from collections.abc import Sequence
from typing import Any

from research.records.runs import Run
from research.records.tried import UNCHANGED, Tried, read_tried
from research.reproduce.claims import Claim, claim
from research.reproduce.experiments import load_module
from research.sweeps.remedies import advised_changes

LABELS = load_module("verdict_benchmark", "labels")
SCORES = load_module("verdict_benchmark", "scores")
SOURCE = "labels by intervention and by raw records"
BALANCED_ACCURACY = 0.95
CLEAR = 0.97  # of the healthy runs
ONSET = 0.05  # of the run
IN_TIME = 0.9  # of the runs
FIRST_HELPS = 0.8
ONE_OF_THREE_HELPS = 0.95
AGREEMENT = 0.98
KIND_RIGHT = 0.8  # precision and recall of each severe kind
LEAST_RUNS = 4  # that have a kind which is claimed about
LEARNS_NOTHING = 0.97  # of the loss of chance
LEARNS_WELL = 0.3


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Verdicts of the test runs against their labels; advice, where ``fathom remedy`` tried it."""
    labels = LABELS.frozen_labels()
    judged = SCORES.read_judged(runs, labels, "test")
    tested = []
    unhealthy = []
    for run, label in zip(runs, labels, strict=True):
        if label.split == "test":
            tested.append(run)
        if label.split == "test" and label.is_unhealthy:
            unhealthy.append(run)
    return [
        *claims_on_verdicts(judged),
        claim_outcome(tested, learns=False),
        claim_outcome(tested, learns=True),
        _claim_labels_repeat(runs, labels),
        *_claims_on_advice(unhealthy),
    ]


def claims_on_verdicts(judged: Sequence[Any]) -> list[Claim]:
    """Balanced accuracy, healthy runs without a severe finding, and onset.

    Args:
        judged: verdicts and labels of the runs that the claims are about.
    """
    confusion = SCORES.confuse(judged)
    errors = SCORES.onset_errors(judged)
    in_time = [float(error <= ONSET) for error in errors]
    return [
        _share(
            "balanced accuracy: mean of the share of unhealthy runs with a severe finding and of "
            "healthy runs without",
            confusion.balanced_accuracy,
            BALANCED_ACCURACY,
            n=len(judged),
        ),
        _share(
            "healthy runs without a severe finding",
            confusion.specificity,
            CLEAR,
            n=confusion.clear + confusion.alarmed,
        ),
        _share(
            "unhealthy runs whose finding begins within 5 % of the run of where it should",
            sum(in_time) / max(1, len(in_time)),
            IN_TIME,
            n=len(in_time),
        ),
        _claim_kinds(judged),
    ]


def _claim_kinds(judged: Sequence[Any]) -> Claim:
    """Every severe kind is found where it is, and is where it is found."""
    values = []
    for score in SCORES.score_kinds(judged):
        if score.kind in LABELS.SEVERE and score.hits + score.misses >= LEAST_RUNS:
            values.extend([score.precision if score.hits else 0.0, score.recall])
    return claim(
        f"precision and recall of each severe kind that {LEAST_RUNS} runs or more have",
        source=SOURCE,
        expected=f"≥ {KIND_RIGHT:g} each",
        values=values,
        holds=min(values) >= KIND_RIGHT,
    )


def _share(
    statement: str,
    value: float,
    least: float,
    *,
    n: int,
) -> Claim:
    """A claim that a share of ``n`` runs is at least ``least``."""
    return claim(
        statement,
        source=SOURCE,
        expected=f"≥ {least:g}",
        values=[value] * max(1, n),
        holds=value >= least,
    )


def claim_outcome(
    runs: Sequence[Run],
    *,
    learns: bool,
) -> Claim:
    """Runs that learn nothing have a severe finding, and runs that learn well have none."""
    right = []
    for run in runs:
        raw = LABELS.RawRun(run)
        is_nothing = not raw.is_finite or raw.end_loss >= LEARNS_NOTHING * raw.chance
        is_well = raw.is_finite and raw.end_loss <= LEARNS_WELL * raw.chance
        has_finding = run.info["verdict"]["kind"] != SCORES.HEALTHY
        if learns and is_well:
            right.append(float(not has_finding))
        if not learns and is_nothing:
            right.append(float(has_finding))
    if learns:
        statement = "runs whose training loss ends below 0.3 of chance, without a severe finding"
        least = CLEAR
    else:
        statement = "runs whose training loss ends at chance or not finite, with a severe finding"
        least = BALANCED_ACCURACY
    return _share(statement, sum(right) / max(1, len(right)), least, n=len(right))


def _claim_labels_repeat(runs: Sequence[Run], labels: Sequence[Any]) -> Claim:
    """The definitions say the same of the new records as of those that were frozen."""
    agreements = []
    for then, now in zip(labels, LABELS.label_runs(runs), strict=True):
        both = now.kinds.keys() & then.kinds.keys()
        agreements.extend(float(now.kinds[kind] == then.kinds[kind]) for kind in both)
    return _share(
        "labels of this machine's records that equal the frozen ones",
        sum(agreements) / len(agreements),
        AGREEMENT,
        n=len(agreements),
    )


def _claims_on_advice(runs: Sequence[Run]) -> list[Claim]:
    """What came of the advice to unhealthy runs; none where ``fathom remedy`` tried nothing."""
    first = []
    one_of_three = []
    not_worse = []
    for run in runs:
        tried = read_tried(run.directory)
        results = _results_in_order(run, tried) if tried else []
        if not results:
            continue
        first.append(float(results[0] == "helps"))
        one_of_three.append(float("helps" in results[:3]))
        not_worse.append(float(results[0] != "worse"))
    if not first:
        return []
    return [
        _share("first advice that helps", sum(first) / len(first), FIRST_HELPS, n=len(first)),
        _share(
            "one of the first three that helps",
            sum(one_of_three) / len(one_of_three),
            ONE_OF_THREE_HELPS,
            n=len(one_of_three),
        ),
        _share(
            "first advice that is not worse", sum(not_worse) / len(not_worse), 1.0, n=len(first)
        ),
    ]


def _results_in_order(run: Run, tried: Tried) -> list[str]:
    """``helps``, ``same`` or ``worse`` of the changes in the order in which they are advised."""
    by_change = {change.change: change for change in tried.changes if change.change != UNCHANGED}
    results = []
    for change, _ in advised_changes(run):
        if change in by_change:
            results.append(by_change[change].result(tried.unchanged))
    return results
