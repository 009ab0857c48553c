"""Reading run directories back, and the numbers that queries take from them."""

import contextlib
import errno
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from research.config.yaml_files import parse_yaml
from research.records import record
from research.records.queries import autocorrelation
from research.records.record import Lock, RunRecord
from research.records.run_info import DamagedRecord
from research.records.runs import Run, find_runs, flatten_dict


def make_run(directory, layers=3, *, closed=True):
    """Records six steps; 0 and 3 are measured, 2 and 5 evaluated. Returns the signal gradient."""
    directory.mkdir(parents=True)
    signal = np.arange(2.0 * (layers + 1)).reshape(2, -1) ** 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "FLUSH_SECONDS", -1.0)
        run_record = RunRecord(Lock(directory), {"id": "x"})
        for chunk, start in enumerate((0, 3)):
            step = np.arange(start, start + 3)
            eval_loss = np.ma.masked_all(3)
            eval_loss[-1] = start
            metrics = {
                "step": step,
                "train_loss": 1.0 / (step + 1),
                "eval_loss": eval_loss,
            }
            profiles = {
                "step": step[:1],
                "signal_grad": signal[chunk][None],
                "grad_norm": np.ones((1, layers)),
            }
            run_record.add(metrics, profiles)
        if closed:
            run_record.close(status="done")
    return signal


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("closed", [True, False])
def test_a_run_reads_the_same_finished_and_not(tmp_path, layers, closed):
    signal = make_run(tmp_path / "run", layers, closed=closed)
    run = Run(tmp_path / "run")
    assert run.info["status"] == ("done" if closed else "running")
    assert run.metrics["step"].tolist() == [0, 1, 2, 3, 4, 5]
    eval_loss = [np.nan, np.nan, 0, np.nan, np.nan, 3]
    assert np.array_equal(run.metrics["eval_loss"], eval_loss, equal_nan=True)
    assert run.profiles["step"].tolist() == [0, 3]
    assert np.array_equal(run.profiles["signal_grad"], signal)
    assert run.profiles["grad_norm"].shape == (2, layers)


def test_a_run_that_has_not_ended_has_as_many_steps_as_are_on_the_disk(
    tmp_path, fathom, monkeypatch
):
    make_run(tmp_path / "outputs" / "study" / "run", closed=False)
    folder = tmp_path / "outputs" / "study" / "run" / ".hydra"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 0\n")
    monkeypatch.chdir(tmp_path)
    assert Run(folder.parent).num_steps == 6
    assert "6 steps" in fathom("show", "study").out
    assert " 6 " in fathom("runs", "steps=6").out


@pytest.mark.parametrize("num_read", [0, 1])
def test_a_run_that_ends_while_it_is_read_is_read_whole(tmp_path, monkeypatch, num_read):
    """Its part files disappear before they are read, or between two of them."""
    make_run(tmp_path / "whole")
    directory = tmp_path / "run"
    make_run(directory, closed=False)
    open_file = pq.ParquetFile
    calls = []

    def read_while_the_run_ends(file):
        if len(calls) == num_read:
            shutil.copy(tmp_path / "whole" / "metrics.parquet", directory)
            shutil.rmtree(directory / "metrics.parts")
        calls.append(file)
        return open_file(file)

    monkeypatch.setattr(pq, "ParquetFile", read_while_the_run_ends)
    assert Run(directory).metrics["step"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_run_that_ends_while_its_part_files_are_listed_is_read_whole(tmp_path, monkeypatch):
    make_run(tmp_path / "whole")
    directory = tmp_path / "run"
    make_run(directory, closed=False)
    glob = Path.glob

    def glob_while_the_run_ends(folder, pattern):
        shutil.copy(tmp_path / "whole" / "metrics.parquet", directory)
        (directory / "metrics.parts" / "000000.parquet").unlink()
        return glob(folder, pattern)

    run = Run(directory)
    monkeypatch.setattr(Path, "glob", glob_while_the_run_ends)
    assert run.metrics["step"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_run_that_measured_nothing_says_so(tmp_path):
    message = "has no profiles: the run recorded no measurements"
    with pytest.raises(FileNotFoundError, match=message):
        _ = Run(tmp_path).profiles


def test_a_damaged_table_is_named(tmp_path):
    make_run(tmp_path / "run")
    file = tmp_path / "run" / "profiles.parquet"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    message = "the profiles of .*run are damaged: remove that directory"
    with pytest.raises(ValueError, match=message):
        _ = Run(tmp_path / "run").profiles


def test_a_table_that_must_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(file):
        raise PermissionError(errno.EACCES, f"Failed to open local file '{file}'")

    make_run(tmp_path / "run")
    monkeypatch.setattr("research.records.runs.read_file", refuse)
    with pytest.raises(ValueError, match="profiles of .*run cannot be read: Permission denied$"):
        _ = Run(tmp_path / "run").profiles
    damage = Run(tmp_path / "run").find_damage("metrics")
    assert str(damage) == f"the metrics of {tmp_path / 'run'} cannot be read: Permission denied"


def test_the_configuration_is_read_by_dotted_path(finished):
    directory, _ = finished
    run = Run(directory)
    assert run["model.depth"] == 2
    assert run["skip.kind"] == "none"
    assert run["optimizer.clip"] == "none"
    assert isinstance(run["optimizer.learning_rate"], float)
    assert run["optimizer.learning_rate"] == 0.01
    assert run["train.eval_every"] is None
    assert run["model.bias"] is True


def test_a_setting_that_the_options_of_a_run_lack_is_none_and_an_unknown_one_an_error(finished):
    directory, _ = finished
    run = Run(directory)
    assert run["optimizer.epsilon"] is None
    with pytest.raises(KeyError):
        run["optimizer.epsilom"]


def test_nested_settings_become_dotted_paths():
    nested = {"a": 1, "b": {"c": {"d": [2]}, "e": None}, "f": {}}
    assert flatten_dict(nested) == {"a": 1, "b.c.d": [2], "b.e": None}


def test_runs_are_found_at_any_depth_in_order(tmp_path):
    names = ["a/deep/er/one", "a/one", "b/two"]
    for name in reversed(names):
        make_run(tmp_path / name)
    (tmp_path / "a" / "figures").mkdir()
    found = [str(run.directory.relative_to(tmp_path)) for run in find_runs(tmp_path)]
    assert found == names
    assert find_runs(tmp_path / "nowhere") == []


@pytest.mark.parametrize("file", ["metrics.parquet", "metrics.parts/000000.parquet"])
def test_a_folder_with_rows_is_a_run_whose_record_is_missing_unless_it_is_being_written(
    tmp_path, file
):
    table = tmp_path / "study" / "run" / file
    table.parent.mkdir(parents=True)
    table.touch()

    (run,) = find_runs(tmp_path)
    with pytest.raises(DamagedRecord, match="run.json is missing: restore it"):
        run.check()

    lock = Lock(tmp_path / "study" / "run")
    assert find_runs(tmp_path) == []
    lock.release()


def test_numbers_in_names_are_sorted_by_value(tmp_path):
    names = ["depth=4", "depth=16", "depth=128"]
    for name in reversed(names):
        make_run(tmp_path / name)
    assert [run.directory.name for run in find_runs(tmp_path)] == names


READS = """
import sys, pathlib
from research.records.run_info import DamagedRecord
from research.records.runs import Run

run = Run(pathlib.Path(sys.argv[1]))
run.info, run.metrics, run.profiles
print([name for name in ("jax", "pandas", "wandb") if name in sys.modules])
"""


def test_reading_needs_neither_jax_nor_pandas_nor_wandb(tmp_path, process):
    make_run(tmp_path / "run")
    reading = process("-c", READS, tmp_path / "run")
    assert reading.communicate() == ("[]\n", "")


def test_the_autocorrelation_of_noise_is_zero_except_at_lag_0():
    noise = np.random.default_rng(0).standard_normal(100_000)
    found = autocorrelation(noise + 7, 3)
    np.testing.assert_allclose(found, [1, 0, 0, 0], atol=0.01)


def test_the_autocorrelation_of_a_sine_is_a_cosine():
    period = 20
    wave = np.sin(2 * np.pi * np.arange(10_000) / period)
    expected = np.cos(2 * np.pi * np.arange(period + 1) / period)
    np.testing.assert_allclose(autocorrelation(wave, period), expected, atol=0.003)


def test_the_autocorrelation_of_three_values_is_the_one_computed_by_hand():
    values = np.array([1.0, 2.0, 4.0])
    expected = np.array([42, -1, -20]) / 42
    np.testing.assert_allclose(autocorrelation(values, 2), expected)


@pytest.mark.parametrize("number", [1_000, 100_000])
def test_a_deeply_nested_text_does_not_end_the_process(number):
    with contextlib.suppress(yaml.YAMLError, RecursionError):
        parse_yaml("- " * number)
    assert parse_yaml("- 1") == [1]
