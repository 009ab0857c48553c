"""How two sides are timed, and what their ratio is."""

import pytest

from research.benchmark.timing import TimingPair, compare, median_ratio


def test_a_ratio_is_the_median_over_pairs_so_that_a_slow_moment_affects_both_sides():
    pairs = [
        TimingPair(2.0, 1.0),
        TimingPair(2.2, 1.0),
        TimingPair(200.0, 100.0),
        TimingPair(2.1, 1.0),
        TimingPair(1.9, 1.0),
    ]
    measurement = median_ratio(pairs, ", noted")
    assert measurement.value == pytest.approx(2.0)
    assert measurement.note == "2.10 s / 1.00 s [2.00 to 2.10], noted"


def test_two_sides_are_timed_alternately_and_each_goes_first_equally_often():
    calls = []
    progress = []

    def subject():
        calls.append("subject")
        return 3.0

    def baseline():
        calls.append("baseline")
        return 2.0

    def report_progress(done, total):
        progress.append((done, total))

    measurement = compare(subject, baseline, 4, report_progress)
    assert measurement.value == pytest.approx(1.5)
    baseline_first = ["baseline", "subject"]
    subject_first = ["subject", "baseline"]
    assert calls == [*baseline_first, *subject_first, *baseline_first, *subject_first]
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
