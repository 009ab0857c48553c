"""``fathom bench --device``: every row measures, in small, on any machine."""

import importlib.util

import pytest

from research.benchmark import device_rows, table
from research.benchmark.device_rows import FULL, QUICK, make_rows
from research.benchmark.rows import ROWS
from research.benchmark.steps import compose_config
from research.cli import main as cli

NAMES = list(make_rows(QUICK))


def report_progress(done, total):
    pass


def test_the_small_rows_are_those_of_the_device():
    assert list(make_rows(FULL)) == NAMES


def test_no_row_of_the_device_has_the_name_of_another_one():
    assert not set(NAMES) & set(ROWS)


@pytest.mark.parametrize("network", [FULL.mlp, FULL.resnet, FULL.transformer])
def test_the_networks_of_the_device_are_valid(network):
    config = compose_config(*network.overrides)
    assert config.train.batch_size in (64, 128)


@pytest.mark.slow
def test_a_row_of_the_device_is_measured_and_printed(capsys):
    assert cli.run(["bench", "--device", "--quick", "device_gauges_mlp"]) == 0
    header, row, *_ = capsys.readouterr().out.splitlines()
    assert header.startswith("row ")
    assert row.startswith("device_gauges_mlp ")
    assert "ms / " in row
    assert "NO" not in row  # so small a network has no budget


@pytest.mark.slow
def test_runs_as_one_program_are_compared_with_one_run():
    measurement = make_rows(QUICK)["device_runs"].measure(report_progress)
    assert measurement.value is not None
    assert measurement.value > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_row_of_the_device_measures(name):
    if "torch" in name and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    measurement = make_rows(QUICK)[name].measure(report_progress)
    assert measurement.value is not None
    assert measurement.value > 0


def test_without_an_accelerator_the_rows_are_refused_in_one_line(capsys):
    assert cli.run(["bench", "--device"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--quick" in line


def test_quick_belongs_to_the_rows_of_the_device(capsys):
    assert cli.run(["bench", "--quick"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "add --device" in line


def test_an_unknown_row_of_the_device_is_one_line_with_the_nearest_name(capsys):
    assert cli.run(["bench", "--device", "--quick", "device_rnus"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "did you mean device_runs?" in line


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    """A directory that looks like a checkout."""
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(table, "resource_dir", lambda name: tmp_path / name)
    return tmp_path


def test_the_page_keeps_the_section_about_the_device_and_the_other_way_round(checkout):
    first = f"{table.DEVICE_HEADING}\n\nfirst\n"
    second = f"{table.DEVICE_HEADING}\n\nsecond\n"
    file = table.write_device_section(first)
    assert file.read_text() == first
    table.write_page("# Benchmark\n\nold\n")
    table.write_page("# Benchmark\n\nnew\n")
    assert file.read_text() == f"# Benchmark\n\nnew\n\n{first}"
    table.write_device_section(second)
    assert file.read_text() == f"# Benchmark\n\nnew\n\n{second}"


@pytest.mark.slow
def test_all_rows_of_the_device_are_written_as_a_section(checkout, monkeypatch):
    rows = {"device_runs": make_rows(QUICK)["device_runs"]}
    monkeypatch.setattr(device_rows, "make_rows", lambda sizes: rows)
    monkeypatch.setattr(device_rows, "prepare_device", lambda quick: None)
    cli.run(["bench", "--device"])
    text = (checkout / "experiments" / "benchmark" / "README.md").read_text()
    assert text.startswith(table.DEVICE_HEADING)
    assert "| device_runs | " in text
    assert "- command: `fathom bench --device`" in text
