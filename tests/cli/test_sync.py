"""What ``fathom sync`` says of the time that is left; tests/records tests the uploads."""

from pathlib import Path

import pytest

from research.cli import sync
from research.cli.sync import TimeLeft, Upload


def make_upload(num_rows):
    return Upload(Path("run"), Path("run"), num_rows, lambda lock: "uploaded")


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, which tests set."""
    times = [0.0]
    monkeypatch.setattr(sync.time, "monotonic", lambda: times[-1])
    return times


def test_a_short_run_says_little_of_how_fast_the_rows_of_a_long_one_are_sent(clock):
    short, long = make_upload(20), make_upload(20_000)
    time_left = TimeLeft([short, long])
    clock.append(3.0)
    assert time_left.after(short) == ", about 62 s left"
    clock.append(30.0)
    assert time_left.after(long) == ""


def test_of_equal_uploads_each_takes_as_long_as_the_others(clock):
    uploads = [make_upload(0) for _ in range(4)]
    time_left = TimeLeft(uploads)
    clock.append(10.0)
    assert time_left.after(uploads[0]) == ", about 30 s left"
    clock.append(20.0)
    assert time_left.after(uploads[1]) == ", about 20 s left"


def test_there_is_no_estimate_in_the_first_two_seconds(clock):
    uploads = [make_upload(10) for _ in range(2)]
    time_left = TimeLeft(uploads)
    clock.append(1.0)
    assert time_left.after(uploads[0]) == ""
