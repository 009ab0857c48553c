"""Runs that ended badly, or measured nothing, are answered in one line."""

import json

import pytest

from research.records.runs import Run, describe_verdict, find_runs
from research.reporting.plots.arrangement import PlotOptions
from research.reporting.plots.draw import draw_runs
from research.reporting.summary_table import summary_table

from .recorded import record_run


def forget(run, entry):
    """Takes an entry out of a record that was not read yet."""
    file = run.directory / "run.json"
    info = json.loads(file.read_text())
    file.write_text(json.dumps(info | {entry: None}))


@pytest.fixture
def diverged(tmp_path):
    return Run(record_run(tmp_path / "a", status="diverged", final={}))


def test_the_profile_of_a_diverged_run_is_that_of_its_first_step(diverged):
    drawing = draw_runs([diverged], PlotOptions(kind="profile"))
    assert len(drawing.figure.axes) == 1


def test_a_step_that_only_diverged_runs_measured_is_refused(diverged):
    with pytest.raises(ValueError, match="no run that ended well measured signal_grad"):
        draw_runs([diverged], PlotOptions(kind="profile", steps="last"))


def test_a_table_of_runs_without_final_numbers_is_refused(tmp_path):
    run = Run(record_run(tmp_path / "a", status="failed"))
    forget(run, "final")
    with pytest.raises(ValueError, match="no run has a final number: 1 failed"):
        summary_table([run])


def test_a_table_has_one_setting_in_its_columns(diverged):
    with pytest.raises(ValueError, match="--columns must be one setting, got depth,seed"):
        summary_table([diverged], columns="depth,seed")


@pytest.mark.parametrize(
    ("status", "reason"),
    [("failed", "its status is failed"), ("done", "it measured nothing (measure=off)")],
)
def test_a_run_without_a_verdict_says_why(tmp_path, status, reason):
    run = Run(record_run(tmp_path / "a", status=status))
    forget(run, "verdict")
    assert describe_verdict(run) == f"which has no verdict, because {reason}"


def test_runs_are_not_looked_for_inside_runs_or_far_below_a_folder(tmp_path):
    record_run(tmp_path / "study" / "a")
    record_run(tmp_path / "study" / "a" / "inside")
    record_run(tmp_path / "1" / "2" / "3" / "4" / "5")
    assert [run.directory.name for run in find_runs(tmp_path)] == ["a"]


@pytest.mark.parametrize(("table", "kind"), [("metrics", "curves"), ("profiles", "profile")])
def test_a_table_that_was_lost_is_named(tmp_path, fathom, monkeypatch, table, kind):
    monkeypatch.chdir(tmp_path)
    directory = record_run(tmp_path / "outputs" / "study" / "a")
    (directory / f"{table}.parquet").unlink()

    shown = fathom("show", "a")
    drawn = fathom("plot", "a", "--kind", kind)

    for result in (shown, drawn):
        assert result.code == 2
        assert f"{table}.parquet is missing: restore it, or" in result.err
        assert result.err.count("\n") == 1


def test_a_number_that_no_run_has_is_answered_before_the_axis(diverged):
    with pytest.raises(ValueError, match="nope is no number of a run"):
        draw_runs([diverged], PlotOptions(y="nope"))
