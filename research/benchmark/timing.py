"""How rows are timed: two sides alternate, so that a slow moment of the machine affects both."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

TimedCall = Callable[[], float]  # does something once and returns the seconds that it took
ReportProgress = Callable[[int, int], None]  # takes the number of timings done, and of all timings


@dataclass(frozen=True)
class Measurement:
    """What was measured for one row.

    Attributes:
        value: The row's number, None where it could not be measured.
        note: What else was observed, for the table's last column.
        failed: Whether measuring raised an error.
    """

    value: float | None
    note: str
    failed: bool = False


@dataclass(frozen=True)
class TimingPair:
    """Seconds of the two sides of a comparison, timed one right after the other."""

    subject: float
    baseline: float


def alternate(
    subject: TimedCall,
    baseline: TimedCall,
    repetitions: int,
) -> Iterator[TimingPair]:
    """Times two sides in pairs; the baseline goes first in the first pair, then they take turns.

    Args:
        subject: what is compared; returns its seconds.
        baseline: what it is compared with.
        repetitions: how many pairs there are.
    """
    for repetition in range(repetitions):
        subject_goes_first = repetition % 2 == 1
        if subject_goes_first:
            subject_seconds = subject()
            baseline_seconds = baseline()
        else:
            baseline_seconds = baseline()
            subject_seconds = subject()
        yield TimingPair(subject_seconds, baseline_seconds)


def compare(
    subject: TimedCall,
    baseline: TimedCall,
    repetitions: int,
    report_progress: ReportProgress,
    note: str = "",
) -> Measurement:
    """Measures the ratio of two sides.

    Args:
        subject: The numerator.
        baseline: The denominator.
        repetitions: How many pairs are timed.
        report_progress: Called after each pair.
        note: Appended to the measurement's note.
    """
    pairs = alternate(subject, baseline, repetitions)
    return median_ratio(report_each(pairs, repetitions, report_progress), note)


def report_each(
    pairs: Iterator[TimingPair],
    repetitions: int,
    report_progress: ReportProgress,
) -> list[TimingPair]:
    """Collects the pairs and reports the progress after each of them.

    Args:
        pairs: yields the timings, pair by pair.
        repetitions: how many pairs there are.
        report_progress: called with the number of pairs that are done, and of all of them.
    """
    collected = []
    for pair in pairs:
        collected.append(pair)
        report_progress(len(collected), repetitions)
    return collected


def median_ratio(pairs: Sequence[TimingPair], note: str = "") -> Measurement:
    """The median ratio of pairs; the note has the median seconds and the quartiles of the ratio."""
    subject = [pair.subject for pair in pairs]
    baseline = [pair.baseline for pair in pairs]
    ratios = np.divide(subject, baseline)
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    subject_text = _format_seconds(float(np.median(subject)))
    baseline_text = _format_seconds(float(np.median(baseline)))
    quartiles = f"[{low:.2f} to {high:.2f}]"
    return Measurement(float(middle), f"{subject_text} / {baseline_text} {quartiles}{note}")


def median_seconds(
    run: TimedCall,
    report_progress: ReportProgress,
    repetitions: int = 5,
) -> Measurement:
    """The median of several timings; the note has the shortest and the longest.

    Args:
        run: what is timed; returns its seconds.
        report_progress: called with the number of timings that are done, and of all of them.
        repetitions: how many timings there are.
    """
    seconds = []
    for repetition in range(repetitions):
        seconds.append(run())
        report_progress(repetition + 1, repetitions)
    note = f"{min(seconds):.2f} to {max(seconds):.2f} s"
    return Measurement(float(np.median(seconds)), note)


def _format_seconds(seconds: float) -> str:
    if seconds >= 0.1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.2f} ms"
