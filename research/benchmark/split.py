"""Rows about one run whose batches all cores share."""

import math
from collections.abc import Iterator

import jax

from research.benchmark.fresh_process import iterate_in_fresh_process
from research.benchmark.steps import BATCH_SIZE, MLP, PAIRS, StepTimer
from research.benchmark.timing import (
    Measurement,
    ReportProgress,
    TimingPair,
    alternate,
    median_ratio,
    report_each,
)
from research.parallel.mesh import SINGLE_DEVICE, Layout
from research.runner.session import prepare_jax

Side = tuple[str, bool]  # the option of measure, and whether all cores share the batch


def compare_one_with_all_cores(report_progress: ReportProgress) -> Measurement:
    """The step on one device / the step whose batch all cores share."""
    return _compare(report_progress, ("norms", False), ("norms", True))


def compare_gauges_on_all_cores(report_progress: ReportProgress) -> Measurement:
    """The step with gauges / the bare step, both on all cores."""
    return _compare(report_progress, ("norms", True), ("off", True))


def _compare(
    report_progress: ReportProgress,
    subject: Side,
    baseline: Side,
) -> Measurement:
    pairs = _pairs_from_fresh_process(subject, baseline)
    return median_ratio(report_each(pairs, PAIRS, report_progress))


def _pairs_from_fresh_process(subject: Side, baseline: Side) -> Iterator[TimingPair]:
    for seconds in iterate_in_fresh_process(time_pairs, subject, baseline):
        yield TimingPair(*seconds)


def time_pairs(subject: Side, baseline: Side) -> Iterator[tuple[float, float]]:
    """Yields pairs of seconds of a step. Runs in a process of its own, with a device per core."""
    prepare_jax(None)
    subject_timer = _make_timer(*subject)
    baseline_timer = _make_timer(*baseline)
    for pair in alternate(subject_timer.time, baseline_timer.time, PAIRS):
        yield pair.subject, pair.baseline


def _make_timer(level: str, is_split: bool) -> StepTimer:
    layout = SINGLE_DEVICE
    if is_split:
        layout = Layout("map", math.gcd(BATCH_SIZE, jax.device_count()), "batch")
    return StepTimer(*MLP, f"measure={level}", layout=layout)
