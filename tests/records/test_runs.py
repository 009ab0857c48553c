import numpy as np
import pytest

from research.records import record
from research.records.queries import autocorrelation
from research.records.record import Lock, RunRecord
from research.records.runs import Run, find_runs, flatten_dict


def recorded(directory, layers=3, *, closed=True, flush=-1.0):
    """Six steps of a run, and what was written; every third is measured, the last is evaluated."""
    directory.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "FLUSH_SECONDS", flush)
        written = RunRecord(Lock(directory), {"id": "x"})
        signal = np.arange(2.0 * (layers + 1)).reshape(2, -1) ** 2
        for start in (0, 3):
            seen = np.ma.masked_all(3)
            seen[-1] = start
            step = np.arange(start, start + 3)
            profiles = {
                "step": step[:1],
                "signal_grad": signal[start // 3][None],
                "grad_norm": np.ones((1, layers)),
            }
            written.add({"step": step, "train_loss": 1.0 / (step + 1), "eval_loss": seen}, profiles)
        if closed:
            written.close(status="done")
    return signal


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("closed", [True, False])
def test_a_run_reads_the_same_finished_and_not(tmp_path, layers, closed):
    signal = recorded(tmp_path / "run", layers, closed=closed)
    run = Run(tmp_path / "run")
    assert run.info["status"] == ("done" if closed else "running")
    assert run.metrics["step"].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.array_equal(
        run.metrics["eval_loss"], [np.nan, np.nan, 0, np.nan, np.nan, 3], equal_nan=True
    )
    assert run.profiles["step"].tolist() == [0, 3]
    assert np.array_equal(run.profiles["signal_grad"], signal)
    assert run.profiles["grad_norm"].shape == (2, layers)


def test_a_run_that_measured_nothing_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no profiles: it measured nothing"):
        _ = Run(tmp_path).profiles


def test_a_damaged_table_is_named(tmp_path):
    recorded(tmp_path / "run", 3, closed=True)
    file = tmp_path / "run" / "profiles.parquet"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="run holds damaged profiles: remove that folder"):
        _ = Run(tmp_path / "run").profiles


def test_the_configuration_is_read_by_dotted_path(finished):
    run = Run(finished[0])
    assert (run["model.depth"], run["skip.kind"], run["optimizer.clip"]) == (2, "none", "none")
    assert isinstance(run["optimizer.epsilon"], float) and run["optimizer.epsilon"] == 1e-8
    assert run["train.eval_every"] is None and run["model.bias"] is True


def test_nested_settings_become_paths():
    assert flatten_dict({"a": 1, "b": {"c": {"d": [2]}, "e": None}, "f": {}}) == {
        "a": 1,
        "b.c.d": [2],
        "b.e": None,
    }


def test_runs_are_found_at_any_depth_in_order(tmp_path):
    for name in ("b/two", "a/deep/er/one", "a/one"):
        recorded(tmp_path / name)
    (tmp_path / "a" / "figures").mkdir()
    assert [str(run.directory.relative_to(tmp_path)) for run in find_runs(tmp_path)] == [
        "a/deep/er/one",
        "a/one",
        "b/two",
    ]
    assert find_runs(tmp_path / "nowhere") == []


def test_reading_needs_neither_jax_nor_pandas(tmp_path, process):
    recorded(tmp_path / "run")
    code = """
import sys, pathlib
from research.records.runs import Run
run = Run(pathlib.Path(sys.argv[1]))
run.info, run.metrics, run.profiles
print([name for name in ("jax", "pandas", "wandb") if name in sys.modules])
"""
    assert process("-c", code, tmp_path / "run").communicate() == ("[]\n", "")


def test_the_autocorrelation_of_noise_is_one_place_long_and_of_a_wave_the_wave():
    noise = np.random.default_rng(0).standard_normal(100_000)
    np.testing.assert_allclose(autocorrelation(noise + 7, 3), [1, 0, 0, 0], atol=0.01)
    wave = np.sin(2 * np.pi * np.arange(10_000) / 20)
    np.testing.assert_allclose(
        autocorrelation(wave, 20), np.cos(2 * np.pi * np.arange(21) / 20), atol=0.003
    )
    np.testing.assert_allclose(
        autocorrelation(np.array([1.0, 2.0, 4.0]), 2), np.array([42, -1, -20]) / 42
    )
