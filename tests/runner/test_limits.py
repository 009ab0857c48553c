"""How many runs can be open at once under the system's limit on open files."""

import resource

import pytest

from research.runner import limits


@pytest.fixture
def set_limits(monkeypatch):
    """Makes the system report limits on open files; returns the history of limits."""

    def set_limits(soft, hard):
        history = [(soft, hard)]
        monkeypatch.setattr(resource, "getrlimit", lambda _: history[-1])
        monkeypatch.setattr(resource, "setrlimit", lambda _, pair: history.append(pair))
        return history

    return set_limits


def test_the_limit_is_raised_as_far_as_it_can_be(set_limits, capsys):
    history = set_limits(256, 4096)

    runs = limits.max_open_runs(500)

    assert runs == (4096 - limits.OTHER_FILES) // limits.FILES_PER_RUN
    assert history[-1] == (4096, 4096)
    assert capsys.readouterr().err == ""


def test_a_line_says_that_fewer_runs_than_wanted_can_be_open(set_limits, capsys):
    set_limits(256, 1024)

    assert limits.max_open_runs(512) == 179

    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "at most 179 runs" in err
    assert "ulimit -Hn 2688 allows 512" in err


def test_too_few_files_for_a_single_run_are_refused(set_limits):
    set_limits(64, 100)
    message = "100 open files are allowed, too few for a single run: ulimit -Hn 133"
    with pytest.raises(ValueError, match=message):
        limits.max_open_runs(1)
