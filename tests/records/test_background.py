"""Calls on threads that do not hold up the process."""

import threading

import numpy as np
import pytest

from research.records.trackers import BackgroundTrackers, MirrorError, TrackerReports
from research.records.trackers.background import BackgroundThread, Unresponsive, call_within


def test_calls_are_made_in_order_and_errors_are_raised():
    thread = BackgroundThread("calls")
    order = []
    futures = [thread.submit(lambda number=number: order.append(number)) for number in range(3)]
    failing = thread.submit(lambda: 1 / 0)
    thread.stop()
    for future in futures:
        thread.wait(future, patience=60)
    assert order == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        thread.wait(failing, patience=60)


def test_a_call_that_does_not_return_is_given_up():
    released = threading.Event()
    with pytest.raises(Unresponsive):
        call_within(0.01, released.wait)
    released.set()
    assert call_within(60, lambda: 3) == 3


class Recorder:
    """A tracker that keeps the steps of each call."""

    name = "recorder"
    remedy = "nothing helps"
    patience = 60.0

    def __init__(self):
        self.pending = {"state": "pending"}
        self.steps_of_calls = []

    def start(self):
        return {}

    def log(self, metrics, profiles, diagnostics):
        self.steps_of_calls.append(metrics["step"].tolist())

    def finish(self, info):
        return {"state": info["status"]}

    def wants_stop(self, *, is_interrupted):
        return False


class Stuck(Recorder):
    """A tracker whose ``finish`` does not return."""

    name = "stuck"
    patience = 0.05

    def __init__(self):
        super().__init__()
        self.released = threading.Event()

    def finish(self, info):
        self.released.wait()
        return super().finish(info)


def test_a_tracker_that_does_not_return_is_given_up_and_reported_once(capsys):
    """W&B has been seen to wait for its own process for ever."""
    tracker = Stuck()
    trackers = BackgroundTrackers([tracker])
    trackers.start()
    trackers.finish({"status": "done"})
    assert trackers.wait() == {}
    assert trackers.wait() == {}
    assert not trackers.all_working
    assert capsys.readouterr().err.count("does not answer") == 1
    tracker.released.set()


def test_rows_that_are_gathered_are_logged_in_one_call_and_the_end_does_not_wait():
    tracker = Recorder()
    trackers = BackgroundTrackers([tracker], gather_seconds=3600.0)
    trackers.start()
    for step in range(0, 6, 2):
        trackers.log({"step": np.array([step, step + 1])}, {}, {})
    trackers.finish({"status": "done"})
    assert trackers.wait() == {"recorder": {"state": "done"}}
    assert tracker.steps_of_calls == [[0, 1, 2, 3, 4, 5]]


def test_rows_that_follow_gathered_ones_are_logged_too():
    tracker = Recorder()
    trackers = BackgroundTrackers([tracker], gather_seconds=1e-6)
    trackers.start()
    for step in range(200):
        trackers.log({"step": np.array([step])}, {}, {})
    trackers.finish({"status": "done"})
    trackers.wait()
    assert sum(tracker.steps_of_calls, []) == list(range(200))


def test_rows_that_cannot_be_joined_are_the_failure_of_the_trackers(capsys):
    tracker = Recorder()
    trackers = BackgroundTrackers([tracker], gather_seconds=3600.0)
    trackers.start()
    for rows in (np.zeros(1), np.zeros((1, 2))):
        trackers.log({"step": np.array([0]), "train_loss": rows}, {}, {})
    trackers.finish({"status": "done"})
    assert trackers.wait() == {}
    assert not trackers.all_working
    assert "tracker=recorder failed" in capsys.readouterr().err


def test_the_failure_of_several_runs_is_one_line(capsys):
    """A server that goes away raises one error in one run of a group and another in the next."""
    reports = TrackerReports()
    reports.add_error(Stuck(), MirrorError("W&B has 3 of 4 rows"))
    reports.add_error(Stuck(), ConnectionResetError("connection lost"))
    assert len(reports.errors) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "3 of 4 rows" in line
