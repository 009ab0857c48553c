import os
import types

import matplotlib.pyplot as plt
import pytest

from research.reproduce import results
from research.reproduce.claims import Claim

CLAIM = Claim("a", "b", "≤ 1", 0.5, (0.0, 1.0), 3, True)


@pytest.fixture
def drawings(monkeypatch):
    """Stands in for an experiment of one claim; has an entry for each drawing of its figure."""
    times = []
    code = types.SimpleNamespace(claims=lambda _: [CLAIM], figure=lambda _: plt.figure())
    monkeypatch.setattr(results, "finished_runs", lambda *_: times.append(1))
    monkeypatch.setattr("research.reproduce.code.load_module", lambda *_: code)
    return times


@pytest.fixture
def run_info(tmp_path):
    """The ``run.json`` of the only run in ``tmp_path``."""
    file = tmp_path / "run" / "run.json"
    file.parent.mkdir()
    file.write_text("{}")
    return file


def test_results_that_are_newer_than_their_sources_are_kept(drawings, run_info, tmp_path):
    assert results.draw_and_test("he_init", tmp_path, keep_current=True)
    assert len(drawings) == 1
    assert results.draw_and_test("he_init", tmp_path, keep_current=True)
    assert len(drawings) == 1
    assert results.draw_and_test("he_init", tmp_path, keep_current=False)
    assert len(drawings) == 2


def test_results_are_made_again_if_a_record_is_newer(drawings, run_info, tmp_path):
    results.draw_and_test("he_init", tmp_path)
    later = (tmp_path / "claims.json").stat().st_mtime + 10
    os.utime(run_info, (later, later))
    assert results.draw_and_test("he_init", tmp_path, keep_current=True)
    assert len(drawings) == 2


def test_results_are_made_again_if_a_table_is_newer(drawings, run_info, tmp_path):
    results.draw_and_test("he_init", tmp_path)
    table = run_info.with_name("metrics.parquet")
    table.touch()
    later = (tmp_path / "claims.json").stat().st_mtime + 10
    os.utime(table, (later, later))
    assert results.draw_and_test("he_init", tmp_path, keep_current=True)
    assert len(drawings) == 2


def test_results_are_kept_if_only_the_record_has_changed_since(drawings, run_info, tmp_path):
    run_info.write_text('{"started": "2020-01-01T00:00:00+00:00"}')
    results.draw_and_test("he_init", tmp_path)
    later = (tmp_path / "claims.json").stat().st_mtime + 10
    os.utime(run_info, (later, later))  # as new tags do
    assert results.draw_and_test("he_init", tmp_path, keep_current=True)
    assert len(drawings) == 1


def test_results_are_made_again_if_one_is_missing(drawings, run_info, tmp_path):
    results.draw_and_test("he_init", tmp_path)
    (tmp_path / "figure.pdf").unlink()
    assert results.draw_and_test("he_init", tmp_path, keep_current=True)
    assert len(drawings) == 2
