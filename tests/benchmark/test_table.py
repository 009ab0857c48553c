"""``fathom bench`` with given numbers, and the table that it prints.

Speed is measured by the command, not by a test.
"""

import dataclasses
import functools
import io

import pytest
from rich.console import Console

from research.benchmark import table
from research.benchmark.rows import ROWS
from research.benchmark.table import MeasuredRow
from research.benchmark.timing import Measurement
from research.cli import main as cli


def keeping_budget(row):
    factor = 1.2 if row.bound == "≥" else 0.8
    return Measurement(row.budget * factor, "as hoped")


def missing_budget(row):
    factor = 0.8 if row.bound == "≥" else 1.2
    return Measurement(row.budget * factor, "alas")


def measured(name, value, note=""):
    return MeasuredRow(ROWS[name], Measurement(value, note))


@pytest.fixture
def measurements(monkeypatch, tmp_path):
    """Replaces what each row measures by these numbers, in a directory that looks like a checkout.

    All budgets hold. A test may change a number.
    """
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "experiments").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table, "resource_dir", lambda name: tmp_path / name)
    numbers = {}

    def measure(report_progress, name):
        report_progress(1, 1)
        return numbers[name]

    for name, row in ROWS.items():
        numbers[name] = keeping_budget(row)
        measured_row = dataclasses.replace(row, measure=functools.partial(measure, name=name))
        monkeypatch.setitem(ROWS, name, measured_row)
    return numbers


@pytest.mark.parametrize("name", ROWS)
def test_a_row_compares_something_and_has_a_bound_where_it_has_a_budget(name):
    row = ROWS[name]
    assert row.description
    if row.budget:
        assert row.bound in ("≤", "≥")
    else:
        assert row.bound == ""


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.bound])
def test_a_budget_holds_only_on_its_side(name):
    row = ROWS[name]
    assert row.holds(keeping_budget(row)) is True
    assert row.holds(Measurement(row.budget, "exactly")) is True
    assert row.holds(missing_budget(row)) is False


def test_a_row_without_budget_or_number_neither_holds_nor_fails():
    assert measured("torch_bare", 0.1).holds is None
    assert measured("torch", None).holds is None


def test_the_table_shows_row_number_budget_and_verdict():
    measured_rows = [
        measured("gauges", 1.23, "a [1.2 to 1.3]"),
        measured("help", 0.5, "b"),
    ]
    out = io.StringIO()
    console = Console(file=out, width=200)
    console.print(table.terminal_table(measured_rows))
    header, gauges, help_row = out.getvalue().splitlines()
    assert header.split() == ["row", "compared", "measured", "budget", "holds", "this", "run"]
    for cell in ("1.23×", "≤ 1.10×", "NO", "a [1.2 to 1.3]"):
        assert cell in gauges
    for cell in ("0.50 s", "≤ 0.70 s", "yes"):
        assert cell in help_row


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("gauges", 1.1001, "1.11×"),
        ("gauges", 1.1, "1.10×"),
        ("torch", 5.999, "5.99×"),
        ("data_stream", 2264.9, "2,260 a second"),
    ],
)
def test_a_number_never_seems_to_hold_where_it_does_not(name, value, shown):
    assert table.format_cells(measured(name, value))[2] == shown


def test_the_page_has_every_row_the_command_and_the_machine():
    measured_rows = [MeasuredRow(row, keeping_budget(row)) for row in ROWS.values()]
    page = table.markdown_page(measured_rows, "fathom bench")
    for row in ROWS.values():
        assert f"| {row.name} | {row.description} | " in page
    assert "- command: `fathom bench`" in page
    for part in ("- processor: ", " cores, ", "jax ", "flax "):
        assert part in page


def test_all_rows_are_printed_and_written(measurements, tmp_path, capsys):
    assert cli.run(["bench"]) == 0
    page = (tmp_path / "experiments" / "benchmark" / "README.md").read_text()
    printed = capsys.readouterr()
    for name in ROWS:
        assert name in page
        assert name in printed.out
    assert "README.md" in printed.out
    assert "help" in printed.err  # progress


def test_selected_rows_are_printed_in_order_and_not_written(measurements, tmp_path, capsys):
    assert cli.run(["bench", "help", "gauges"]) == 0
    header, first_row, second_row = capsys.readouterr().out.splitlines()
    assert header.startswith("row ")
    assert first_row.startswith("gauges ")
    assert second_row.startswith("help ")
    assert not list((tmp_path / "experiments").iterdir())


def test_the_page_goes_to_outputs_where_the_checkout_is_read_only(measurements, tmp_path, capsys):
    (tmp_path / "experiments" / "benchmark").write_text("a file instead of a folder")
    assert cli.run(["bench"]) == 0
    assert "written: outputs/benchmark.md" in capsys.readouterr().out
    assert (tmp_path / "outputs" / "benchmark.md").exists()


def test_the_page_is_not_written_into_an_installed_package(measurements, tmp_path):
    (tmp_path / "pyproject.toml").unlink()
    assert cli.run(["bench"]) == 0
    assert not list((tmp_path / "experiments").iterdir())
    assert (tmp_path / "outputs" / "benchmark.md").exists()


def test_one_budget_that_does_not_hold_is_exit_code_1(measurements):
    measurements["blas"] = missing_budget(ROWS["blas"])
    assert cli.run(["bench", "gauges", "blas"]) == 1
    assert cli.run(["bench", "gauges"]) == 0


def test_a_row_that_raises_does_not_take_the_others_along(measurements, capsys):
    del measurements["blas"]
    assert cli.run(["bench", "gauges", "blas", "help"]) == 1
    printed = capsys.readouterr()
    header, *rows = printed.out.splitlines()
    assert [row.split()[0] for row in rows] == ["gauges", "blas", "help"]
    assert "failed: KeyError" in rows[1]
    assert "Traceback" in printed.err


def test_an_unknown_row_is_one_line_with_the_nearest_name(measurements, capsys):
    assert cli.run(["bench", "gauges", "guages_skip"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "guages_skip" in err
    assert "did you mean gauges_skip?" in err
