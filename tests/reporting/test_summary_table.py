"""``fathom table``: rows and columns by setting, the best in bold, and every format."""

import csv
import io
import json
import re

import numpy as np
import pytest

from research.reporting.selection import select_runs
from research.reporting.summary_table import summary_table
from research.reporting.table_formats import latex_text

from .conftest import ACCURACIES, ends_of, t_interval, write_run


def test_what_varies_most_is_in_the_columns(sweep):
    table = summary_table(select_runs([]))

    assert table.row_settings == ("skip.kind",)
    assert table.column_setting == "model.depth"
    assert [column.value for column in table.columns] == [4, 16, 64]
    assert [row.values for row in table.rows] == [("none",), ("identity",)]


def test_every_cell_is_the_mean_over_its_seeds(sweep):
    table = summary_table(select_runs([]))

    for row in table.rows:
        (skip,) = row.values
        for column, cell in zip(table.columns, row.cells, strict=True):
            assert cell
            values = list(ACCURACIES[column.value, skip])
            if (column.value, skip) in ((16, "none"), (64, "identity")):
                values.pop()
            assert cell.mean == pytest.approx(np.mean(values))
            if np.std(values) > 0:
                assert ends_of(cell) == pytest.approx(t_interval(values))


def test_a_cell_with_runs_that_diverged_is_not_the_best(outputs):
    for kind, values in (("none", (0.99, 0.98)), ("identity", (0.5, 0.6))):
        for seed, value in enumerate(values):
            status = "diverged" if (kind, seed) == ("none", 1) else "done"
            write_run(
                outputs / f"{kind}{seed}",
                {"skip.kind": kind, "seed": seed},
                status=status,
                final={"eval_accuracy": value},
            )
    for seed in (0, 1):
        settings = {"skip.kind": "rezero", "seed": seed}
        write_run(outputs / f"rezero{seed}", settings, final={"eval_accuracy": 0.4})

    table = summary_table(select_runs([]), values=["eval_accuracy"])

    best = {}
    for row in table.rows:
        (skip,) = row.values
        (best[skip],) = row.best
    assert best == {"none": False, "identity": True, "rezero": False}


def test_of_losses_the_lowest_is_the_best_and_of_factors_none(sweep):
    runs = select_runs(["depth=4"])

    table = summary_table(runs, values=["train_loss", "initial_factor"])

    assert [row.best for row in table.rows] == [(False, False), (True, False)]


def test_a_setting_that_is_not_named_becomes_a_row_and_is_never_averaged_over(sweep):
    table = summary_table(select_runs([]), rows=["depth"])

    assert table.row_settings == ("model.depth", "skip.kind")
    assert len(table.rows) == 6


def test_one_setting_alone_leaves_room_for_several_numbers(sweep):
    table = summary_table(select_runs(["skip=identity"]))

    assert table.row_settings == ("model.depth",)
    assert [column.heading for column in table.columns] == ["eval accuracy", "train loss (nats)"]


def test_the_text_has_means_stars_and_what_was_left_out(fathom, sweep):
    said = fathom("table")

    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0].startswith("eval accuracy by depth: mean ± half of the 95 % interval")
    assert lines[0].endswith("over 3 seeds")
    assert lines[1].split() == ["skip", "depth", "4", "depth", "16", "depth", "64"]
    assert re.search(r"none +0\.92 ± 0\.05 +0\.6 ± 0\.6 \(2 of 3\) +0\.100 ± 0\.000$", lines[2])
    assert re.search(r"0\.93 ± 0\.05 \* +0\.94 ± 0\.05 +0\.96 ± 0\.13 \(2 of 3\) \*$", lines[3])
    assert "not averaged: 1 diverged, 1 missing; (2 of 3) says how" in said.out


def test_runs_are_counted_once_whatever_the_number_of_quantities(sweep):
    table = summary_table(select_runs([]), values=["eval_accuracy", "train_loss"], rows=["depth"])

    assert "not averaged: 1 diverged, 1 missing; " in table.notes[-1]


def test_the_note_on_missing_seeds_shows_a_cell_of_the_table(sweep):
    table = summary_table(select_runs(["seed=0,2"]))

    cells = table.to_markdown().partition("Bold")[0]
    (shown,) = set(re.findall(r"\(\d of \d\)", cells))
    assert f"; {shown} says how many seeds a mean has" in table.notes[-1]


def test_the_title_says_which_mean_it_is(sweep):
    runs = select_runs([])

    factors = summary_table(runs, values=["initial_factor"])
    both = summary_table(runs, values=["eval_accuracy", "initial_factor"])

    assert "geometric mean (95 % interval by Student's t) over 3 seeds" in factors.title
    assert both.title.startswith("mean ± half of the 95 % interval (Student's t); factors: ")


def test_markdown(fathom, sweep):
    said = fathom("table", "depth=4", "--value", "eval_accuracy", "--format", "markdown")

    assert said.out.splitlines()[2:6] == [
        "| skip | eval accuracy |",
        "| --- | ---: |",
        "| none | 0.92 ± 0.05 |",
        "| identity | **0.93 ± 0.05** |",
    ]


def test_latex_has_rules_of_booktabs_and_a_bold_best(fathom, sweep):
    said = fathom("table", "--format", "latex")

    lines = said.out.splitlines()
    rules = [line for line in lines if line.startswith("\\")]
    assert rules == [
        "\\begin{tabular}{lrrr}",
        "\\toprule",
        "\\midrule",
        "\\bottomrule",
        "\\end{tabular}",
    ]
    rows = [line for line in lines if line.endswith("\\\\")]
    assert rows[0] == "skip & depth 4 & depth 16 & depth 64 \\\\"
    assert rows[2].startswith("identity & $\\mathbf{0.93 \\pm 0.05}$ & ")
    for row in rows:
        assert row.count("&") == 3
    assert said.out.count("$") % 2 == 0


def test_latex_escapes_what_it_would_read():
    assert latex_text("inv_sqrt & 50 %") == r"inv\_sqrt \& 50 \%"


def test_a_printed_table_is_markdown(sweep):
    table = summary_table(select_runs([]))

    assert str(table) == table.to_markdown()


def test_csv_has_every_number_unrounded(fathom, sweep):
    said = fathom("table", "--format", "csv")

    lines = io.StringIO(said.out)
    records = list(csv.DictReader(lines))
    assert len(records) == 6
    record = next(each for each in records if each["model.depth"] == "4")
    values = ACCURACIES[4, record["skip.kind"]]
    low, _ = t_interval(values)
    assert record["n"] == "3"
    assert float(record["mean"]) == pytest.approx(np.mean(values), rel=1e-15)
    assert float(record["low"]) == pytest.approx(low, rel=1e-12)
    left_out = {record["left_out"] for record in records}
    assert left_out == {"", "1 diverged", "1 missing"}


def test_json_has_documented_keys(fathom, sweep):
    said = fathom("table", "--json")

    table = json.loads(said.out)
    assert list(table) == ["rows", "columns", "quantities", "level", "cells"]
    assert table["rows"] == ["skip.kind"]
    assert table["columns"] == "model.depth"
    cell = table["cells"][1]
    assert list(cell) == [
        "skip.kind",
        "model.depth",
        "quantity",
        "unit",
        "mean",
        "low",
        "high",
        "n",
        "seeds",
        "left_out",
    ]
    assert cell["left_out"] == {"diverged": 1}


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["depth=5"], "none of the 17 runs"),
        (["--value", "eval_acc"], "did you mean eval_accuracy?"),
        (["--rows", "model.dpeth"], "did you mean model.depth?"),
        (["--columns", "skp"], "did you mean skip"),
        (["--format", "latx"], "did you mean latex?"),
        (["--columns", "depth", "--value", "eval_accuracy,train_loss"], "room for one number"),
        (["--rows", "depth,depth"], "must name each once, got model.depth again"),
        (["--rows", "skip", "--columns", "skip"], "must name each once, got skip.kind again"),
        (["--value", "steps,steps"], "--value must name each once, got steps again"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_with_the_nearest_name(fathom, sweep, words, part):
    said = fathom("table", *words)

    assert said.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert part in said.err
