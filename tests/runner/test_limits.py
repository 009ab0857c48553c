import resource

import pytest

from research.runner import limits


@pytest.fixture
def allowed(monkeypatch):
    """A system that lets a process have so many files open; what it was asked for."""

    def allow(soft, hard):
        held = [(soft, hard)]
        monkeypatch.setattr(resource, "getrlimit", lambda _: held[-1])
        monkeypatch.setattr(resource, "setrlimit", lambda _, pair: held.append(pair))
        return held

    return allow


def test_as_many_files_as_may_be_are_allowed(allowed, capsys):
    held = allowed(256, 4096)
    assert limits.most_together(500) == (4096 - limits.OTHER_FILES) // limits.FILES_A_RUN
    assert held[-1] == (4096, 4096) and capsys.readouterr().err == ""


def test_where_files_are_few_fewer_runs_go_together_and_it_is_said(allowed, capsys):
    allowed(256, 1024)
    assert limits.most_together(512) == 224
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1 and "at most 224 runs" in said and "ulimit -Hn 2176 lets 512" in said
    )


def test_too_few_files_for_a_single_run_are_refused(allowed):
    allowed(64, 100)
    with pytest.raises(
        ValueError, match="100 open files are allowed, too few for a single run: ulimit -Hn 132"
    ):
        limits.most_together(1)
