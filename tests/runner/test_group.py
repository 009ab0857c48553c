"""Runs that are trained as one program: each as it would be alone, whatever the others do."""

import json

import jax
import numpy as np
import pytest
import yaml

from research.parallel.mesh import Layout, init_layout
from research.records.record import RunRecord
from research.records.runs import Run
from research.runner import loop

from .reading import (
    find_wandb_rows,
    find_wandb_run,
    have_same_tables,
    modification_times,
    relative_files,
)

TABLES = ("metrics", "profiles")
SEEDS = "seed=range(0,5)"  # more runs than devices, and not a multiple of them
OUT_OF_MEMORY = [
    MemoryError("1 GB are needed"),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
]


@pytest.fixture(scope="module")
def sweep(fathom, small, tmp_path_factory):
    """Sweeps the small run in a directory; returns the runs by seed, and the command's output.

    Of several runs with the same seed it returns the one with the smallest learning rate.
    """

    def start(*overrides, launcher="grouped", place=None):
        place = place or tmp_path_factory.mktemp("sweep")
        settings = ["name=study", "tracker=none", f"hydra/launcher={launcher}"]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            result = fathom("train", "-m", *small, *settings, *overrides)
            files = place.glob("outputs/study/*/run.json")
            runs = [Run(file.parent.absolute()) for file in files]
        runs.sort(key=lambda run: run["optimizer.learning_rate"], reverse=True)
        return {run["seed"]: run for run in runs}, result

    return start


@pytest.fixture(scope="module")
def alone(sweep):
    """The runs, trained one by one."""
    runs, _ = sweep(SEEDS, launcher="basic")
    return runs


@pytest.fixture(scope="module")
def grouped(sweep):
    """The same runs, trained as one group with W&B, and the command's output."""
    return sweep(SEEDS, "tracker=wandb")


def test_each_run_of_a_group_is_the_run_alone_bit_for_bit(alone, grouped):
    assert jax.device_count() == 2
    runs, (code, out, err) = grouped

    assert code == 0, err
    assert sorted(runs) == sorted(alone) == [0, 1, 2, 3, 4]
    assert "5 of 5 runs to train, 1 compiled program\n" in err
    assert "[1-5/5] 5 runs" in err
    assert len(out.splitlines()) == 6
    for seed, run in runs.items():
        assert have_same_tables(run, alone[seed])
        for key in ("id", "final", "verdict", "steps", "parameters", "status"):
            assert run.info[key] == alone[seed].info[key]
        assert run.info["group_size"] == 5
        assert alone[seed].info["group_size"] == 1
    assert not have_same_tables(runs[0], runs[1])


def settings_without_tracker(run):
    return {path: value for path, value in run.config.items() if "tracker" not in path}


def read_hydra_settings(run):
    file = run.directory / ".hydra" / "hydra.yaml"
    return yaml.safe_load(file.read_text())["hydra"]


def test_each_run_has_the_directory_that_hydra_would_make(alone, grouped):
    runs, _ = grouped
    for seed, run in runs.items():
        assert relative_files(run.directory) == {
            "run.json",
            "metrics.parquet",
            "profiles.parquet",
            ".hydra/config.yaml",
            ".hydra/overrides.yaml",
            ".hydra/hydra.yaml",
        }
        assert settings_without_tracker(run) == settings_without_tracker(alone[seed])
        written = read_hydra_settings(run)
        expected = read_hydra_settings(alone[seed])
        assert set(written) == set(expected)
        assert written["job"]["num"] == expected["job"]["num"] == seed
        assert written["runtime"]["output_dir"] == str(run.directory)
        assert written["runtime"]["choices"]["hydra/launcher"] == "grouped"


def test_each_run_has_a_wandb_run_in_one_group(grouped, wandb_records):
    runs, _ = grouped
    for run in (runs[0], runs[4]):
        records = wandb_records(run.directory.parents[2] / run.info["wandb"])
        wandb_run = find_wandb_run(records)
        assert wandb_run["run_id"] == run.info["id"]
        assert wandb_run["run_group"] == "study"
        assert wandb_run["config"]["update"]["seed"] == run["seed"]
        losses = [row["train/loss"] for row in find_wandb_rows(records)]
        assert losses == run.metrics["train_loss"].tolist()
    assert len({run.info["wandb"] for run in runs.values()}) == 5


@pytest.mark.slow
def test_runs_under_vmap_round_differently_and_little(sweep, alone):
    runs, result = sweep(SEEDS, "hydra.launcher.map_mode=vmap", "train.steps=10")

    assert result.code == 0
    assert len(runs) == 5
    for seed, run in runs.items():
        for table in TABLES:
            columns = getattr(run, table)
            expected = getattr(alone[seed], table)
            for name in set(columns) - {"eval_loss", "eval_accuracy", "train_accuracy"}:
                np.testing.assert_allclose(
                    columns[name], expected[name][:10], rtol=1e-5, atol=1e-7, err_msg=name
                )


def test_of_more_seeds_only_the_new_ones_are_trained(sweep, tmp_path):
    before, _ = sweep("seed=0", place=tmp_path)
    info = before[0].info
    written = modification_times(before[0].directory)

    after, (code, out, err) = sweep("seed=0,1", place=tmp_path)

    assert code == 0
    assert sorted(after) == [0, 1]
    assert "1 of 2 runs to train, 1 compiled program; already finished: 1\n" in err
    assert "[1/1" not in err
    assert after[0].info == info
    assert modification_times(after[0].directory) == written
    _, (code, out, err) = sweep("seed=0,1", place=tmp_path)
    assert code == 0
    assert err == ""
    assert out.splitlines()[-1].startswith("2 of 2 runs had already finished")


def test_a_run_that_diverges_leaves_the_others(sweep, alone):
    runs, (code, _, err) = sweep("seed=0,1,2", "optimizer.learning_rate=1e30,0.01")

    assert code == 1
    assert "3 of 6 runs did not end well" in err
    assert sorted(runs) == [0, 1, 2]
    for seed, run in runs.items():
        assert have_same_tables(run, alone[seed])


def test_a_group_that_diverges_as_a_whole_ends_early(sweep):
    runs, (code, _, _) = sweep(SEEDS, "optimizer.learning_rate=1e30", "train.steps=1000000")

    assert code == 1
    for run in runs.values():
        assert run.info["status"] == "diverged"


def test_a_run_that_cannot_be_written_leaves_the_others(sweep, alone, monkeypatch):
    add = RunRecord.add

    def add_to_full_disk(record, metrics, profiles):
        if record.info["seed"] == 1 and metrics["step"][-1] >= 9:
            raise OSError(28, "No space left on device", str(record.directory))
        add(record, metrics, profiles)

    monkeypatch.setattr(RunRecord, "add", add_to_full_disk)

    runs, (code, _, err) = sweep(SEEDS)

    assert code == 1
    assert "1 of 5 runs did not end well" in err
    assert "No space left on device" in err
    assert runs[1].info["status"] == "failed"
    assert "No space left" in runs[1].info["error"]
    for seed in (0, 2, 3, 4):
        assert have_same_tables(runs[seed], alone[seed])


def test_an_interruption_ends_the_whole_group_and_keeps_what_was_measured(
    sweep, alone, monkeypatch
):
    add = RunRecord.add

    def add_and_interrupt(record, metrics, profiles):
        add(record, metrics, profiles)
        if record.info["seed"] == 1 and metrics["step"][-1] >= 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunRecord, "add", add_and_interrupt)

    runs, (code, _, err) = sweep(SEEDS)

    assert code == 1
    assert "interrupted" in err
    for seed, run in runs.items():
        assert run.info["status"] == "interrupted"
        losses = run.metrics["train_loss"]
        expected = alone[seed].metrics["train_loss"]
        assert len(losses) > 0
        assert np.array_equal(losses, expected[: len(losses)])


def memory_for(num_runs, *, of_runs, error):
    """A memory check that passes for ``num_runs`` runs, if the first call is for ``of_runs``."""
    amounts = []

    def check(num_bytes, num_devices, **_):
        amounts.append(num_bytes)
        if num_bytes > amounts[0] * num_runs / of_runs:
            raise error

    return check


@pytest.mark.slow
@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["host", "device"])
def test_a_group_that_does_not_fit_is_halved_until_it_does(sweep, alone, monkeypatch, error):
    monkeypatch.setattr(loop, "check_memory", memory_for(4, of_runs=6, error=error))
    monkeypatch.setattr(loop, "program_bytes", lambda compiled: 0)

    runs, (code, _, err) = sweep(SEEDS)

    assert code == 0, err
    assert sorted(run.info["group_size"] for run in runs.values()) == [2, 2, 3, 3, 3]
    for seed, run in runs.items():
        assert have_same_tables(run, alone[seed])
    assert "[1-3/5]" in err
    assert "[4-5/5]" in err


def test_runs_that_do_not_fit_at_all_are_listed_with_the_reason(sweep, monkeypatch):
    check = memory_for(0, of_runs=1, error=OUT_OF_MEMORY[0])
    monkeypatch.setattr(loop, "check_memory", check)

    _, (code, _, err) = sweep("seed=0,1")

    assert code == 1
    assert "2 of 2 runs did not end well" in err
    assert err.count("1 GB are needed") == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hydra.launcher.map_mode=side", "map_mode must be one of auto, map, vmap, got side"),
        (
            "hydra.launcher.devices=0",
            "hydra.launcher.devices must be a whole number ≥ 1 or null, got 0",
        ),
        (
            "hydra.launcher.max_group_size=-1",
            "hydra.launcher.max_group_size must be a whole number ≥ 1 or null, got -1",
        ),
        ("optimizer.learning_rate=0.1,-1", "optimizer.learning_rate must be a number ≥ 0, got -1"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_written(sweep, tmp_path, setting, message):
    _, (code, _, err) = sweep(setting, place=tmp_path)

    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_directory_of_another_configuration_is_left_alone(sweep, tmp_path):
    runs, _ = sweep("seed=0", place=tmp_path)
    info = runs[0].info | {"id": "another"}
    (runs[0].directory / "run.json").write_text(json.dumps(info))
    written = modification_times(runs[0].directory)

    _, (code, _, _) = sweep("seed=1,0", place=tmp_path)

    assert code == 0
    assert len(list(tmp_path.glob("outputs/study/*/run.json"))) == 3
    assert modification_times(runs[0].directory) == written


def test_initial_states_are_made_on_one_device():
    """Matrix decompositions on several CPU devices at once deadlock."""
    assert init_layout(Layout("map", 2)) == Layout("map", 1)
    assert init_layout(Layout("vmap", 4, "batch")).devices == 1
