"""Runs trained as one program: each as it would be alone, whatever becomes of the others."""

import json

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from research.parallel.mesh import Layout, init_layout
from research.records.record import RunRecord
from research.records.runs import Run
from research.runner import loop as host

TABLES = ("metrics", "profiles")
SEEDS = "seed=range(0,5)"  # more than the devices, and no multiple of them


@pytest.fixture(scope="module")
def sweep(fathom, small, tmp_path_factory):
    """Sweeps the small run in a place of its own: by seed the run of the smallest rate, and what was said."""

    def start(*overrides, launcher="grouped", place=None):
        place = place or tmp_path_factory.mktemp("sweep")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            said = fathom(
                "train",
                "-m",
                *small,
                "name=study",
                "tracker=none",
                f"hydra/launcher={launcher}",
                *overrides,
            )
            runs = [Run(file.parent.absolute()) for file in place.glob("outputs/study/*/run.json")]
        return {
            run["seed"]: run
            for run in sorted(runs, key=lambda run: -run["optimizer.learning_rate"])
        }, said

    return start


@pytest.fixture(scope="module")
def alone(sweep):
    """The runs one by one."""
    return sweep(SEEDS, launcher="basic")[0]


@pytest.fixture(scope="module")
def together(sweep):
    """The same runs as one group, with W&B, and what was said."""
    return sweep(SEEDS, "tracker=wandb")


def tables(run):
    return [pq.read_table(run.directory / f"{name}.parquet") for name in TABLES]


def same(run, other):
    return all(a.equals(b) for a, b in zip(tables(run), tables(other), strict=True))


def test_each_member_is_the_run_alone_bit_for_bit(alone, together):
    assert jax.device_count() == 2
    runs, (code, out, err) = together
    assert code == 0 and sorted(runs) == sorted(alone) == list(range(5)), err
    assert "5 of 5 runs to train, 1 compiled program\n" in err and "[1-5/5] 5 runs" in err
    assert len(out.splitlines()) == 6
    for seed in runs:
        assert same(runs[seed], alone[seed])
        for key in ("id", "final", "verdict", "steps", "parameters", "status"):
            assert runs[seed].info[key] == alone[seed].info[key]
    assert (runs[0].info["together"], alone[0].info["together"]) == (5, 1)
    assert not same(runs[0], runs[1])


def test_each_member_has_the_directory_that_hydra_would_make(alone, together):
    for seed, run in together[0].items():
        files = {
            str(file.relative_to(run.directory))
            for file in run.directory.rglob("*")
            if file.is_file()
        }
        hydra = {f".hydra/{name}.yaml" for name in ("config", "overrides", "hydra")}
        assert files == {"run.json", "metrics.parquet", "profiles.parquet", *hydra}
        assert {k: v for k, v in run.config.items() if "tracker" not in k} == {
            k: v for k, v in alone[seed].config.items() if "tracker" not in k
        }
        ours, hydras = (
            yaml.safe_load((r.directory / ".hydra/hydra.yaml").read_text())
            for r in (run, alone[seed])
        )
        assert set(ours["hydra"]) == set(hydras["hydra"])
        assert ours["hydra"]["job"]["num"] == hydras["hydra"]["job"]["num"] == seed
        assert ours["hydra"]["runtime"]["output_dir"] == str(run.directory)
        assert ours["hydra"]["runtime"]["choices"]["hydra/launcher"] == "grouped"


def test_each_member_has_a_wandb_run_in_one_group(together, wandb_records):
    runs = together[0]
    for run in (runs[0], runs[4]):
        records = wandb_records(run.directory.parents[2] / run.info["wandb"])
        (described,) = [record["run"] for record in records if record["type"] == "run"]
        assert (described["run_id"], described["run_group"]) == (run.info["id"], "study")
        assert described["config"]["update"]["seed"] == run["seed"]
        rows = [record["history"]["item"] for record in records if record["type"] == "history"]
        assert [row["train/loss"] for row in rows if "train/loss" in row] == run.metrics[
            "train_loss"
        ].tolist()
    assert len({run.info["wandb"] for run in runs.values()}) == 5


@pytest.mark.slow
def test_members_trained_side_by_side_round_differently_and_little(sweep, alone):
    runs, said = sweep(SEEDS, "hydra.launcher.map_mode=vmap", "train.steps=10")
    assert said.code == 0 and len(runs) == 5
    for seed, run in runs.items():
        for table in TABLES:
            ours = getattr(run, table)
            theirs = getattr(alone[seed], table)
            for name in set(ours) - {"eval_loss", "eval_accuracy", "train_accuracy"}:
                np.testing.assert_allclose(
                    ours[name], theirs[name][:10], rtol=1e-5, atol=1e-7, err_msg=name
                )


def test_more_seeds_run_only_the_new_ones(sweep, tmp_path):
    before, _ = sweep("seed=0", place=tmp_path)
    written = before[0].info, (before[0].directory / "metrics.parquet").stat().st_mtime_ns
    after, (code, out, err) = sweep("seed=0,1", place=tmp_path)
    assert code == 0 and sorted(after) == [0, 1]
    assert (
        "1 of 2 runs to train, 1 compiled program; already finished: 1\n" in err and "[1/1" not in err
    )
    assert (after[0].info, (after[0].directory / "metrics.parquet").stat().st_mtime_ns) == written
    _, (code, out, err) = sweep("seed=0,1", place=tmp_path)
    assert (
        code == 0
        and err == ""
        and out.splitlines()[-1].startswith("2 of 2 runs had already finished")
    )


def test_a_member_that_diverges_leaves_the_others(sweep, alone):
    runs, (code, _, err) = sweep("seed=0,1,2", "optimizer.learning_rate=1e30,0.01")
    assert code == 1 and "3 of 6 runs did not end well" in err
    assert sorted(runs) == [0, 1, 2] and all(same(run, alone[seed]) for seed, run in runs.items())


def test_a_group_that_diverges_as_a_whole_ends_early(sweep):
    runs, (code, _, _) = sweep(SEEDS, "optimizer.learning_rate=1e30", "train.steps=1000000")
    assert code == 1 and {run.info["status"] for run in runs.values()} == {"diverged"}


def test_a_member_that_cannot_be_written_leaves_the_others(sweep, alone, monkeypatch):
    add = RunRecord.add

    def full(record, metrics, profiles):
        if record.info["seed"] == 1 and metrics["step"][-1] >= 9:
            raise OSError(28, "No space left on device", str(record.directory))
        add(record, metrics, profiles)

    monkeypatch.setattr(RunRecord, "add", full)
    runs, (code, out, err) = sweep(SEEDS)
    assert code == 1 and "1 of 5 runs did not end well" in err and "No space left on device" in err
    assert runs[1].info["status"] == "failed" and "No space left" in runs[1].info["error"]
    assert all(same(runs[seed], alone[seed]) for seed in (0, 2, 3, 4))


def test_an_interruption_ends_the_whole_group_and_keeps_what_was_measured(
    sweep, alone, monkeypatch
):
    add = RunRecord.add

    def interrupted(record, metrics, profiles):
        add(record, metrics, profiles)
        if record.info["seed"] == 1 and metrics["step"][-1] >= 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunRecord, "add", interrupted)
    runs, (code, _, err) = sweep(SEEDS)
    assert code == 1 and "interrupted" in err
    assert {run.info["status"] for run in runs.values()} == {"interrupted"}
    for seed, run in runs.items():
        steps = len(run.metrics["step"])
        assert steps and np.array_equal(
            run.metrics["train_loss"], alone[seed].metrics["train_loss"][:steps]
        )


def too_little_for(runs, allowed, error):
    """Memory checks that let at most ``allowed`` of ``runs`` runs pass, going by the first amount asked for."""
    first = []

    def check(total, devices):
        first.append(total)
        if total > first[0] * allowed / runs:
            raise error

    return check


ERRORS = [
    MemoryError("1 GB are needed"),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
]


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=["host", "device"])
def test_a_group_that_does_not_fit_is_halved_until_it_does(sweep, alone, monkeypatch, error):
    monkeypatch.setattr(host, "check_memory", too_little_for(6, 4, error))
    monkeypatch.setattr(host, "needed", lambda compiled: 0)
    runs, (code, _, err) = sweep(SEEDS)
    assert code == 0, err
    assert sorted(run.info["together"] for run in runs.values()) == [2, 2, 3, 3, 3]
    assert all(same(runs[seed], alone[seed]) for seed in runs)
    assert "[1-3/5]" in err and "[4-5/5]" in err


def test_runs_that_do_not_fit_at_all_are_listed_with_the_reason(sweep, monkeypatch):
    monkeypatch.setattr(host, "check_memory", too_little_for(1, 0, ERRORS[0]))
    runs, (code, _, err) = sweep("seed=0,1")
    assert code == 1 and "2 of 2 runs did not end well" in err and err.count("1 GB are needed") == 2


@pytest.mark.parametrize(
    ("setting", "said"),
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
def test_what_is_wrong_is_refused_before_anything_is_written(sweep, tmp_path, setting, said):
    _, (code, out, err) = sweep(setting, place=tmp_path)
    assert code == 2 and said in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_directory_of_another_configuration_is_refused(sweep, tmp_path):
    runs, _ = sweep("seed=0", place=tmp_path)
    (runs[0].directory / "run.json").write_text(json.dumps(runs[0].info | {"id": "another"}))
    written = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    _, (code, _, err) = sweep("seed=1,0", place=tmp_path)
    assert code == 2 and err.count("\n") == 1 and "seed=0" in err and "give another name=" in err
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == written


def test_initial_states_are_made_on_one_device():
    """Matrix decompositions on several CPU devices at once wait for one another for ever."""
    assert (
        init_layout(Layout("map", 2)) == Layout("map", 1)
        and init_layout(Layout("vmap", 4, "batch")).devices == 1
    )
