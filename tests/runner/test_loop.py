import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from research.records.record import Lock, RunRecord
from research.records.runs import Run
from research.runner.loop import chunks

TABLES = ("metrics", "profiles")


def tables(run):
    return [pq.read_table(run.directory / f"{name}.parquet") for name in TABLES]


KEYS = [
    "id",
    "status",
    "seed",
    "versions",
    "git",
    "device",
    "parameters",
    "layers",
    "data",
    "seconds",
    "steps",
    "final",
    "verdict",
]
INNER = {
    "versions": ["fathom", "python", "jax"],
    "device": ["platform", "kind"],
    "data": ["name", "version", "split", "fingerprint"],
    "seconds": ["compile", "train", "total"],
    "final": ["train_loss", "train_accuracy", "eval_loss", "eval_accuracy"],
    "verdict": [
        "kind",
        "factor_per_layer",
        "interval",
        "ratio",
        "first_layer",
        "since_step",
        "theory",
        "sentence",
    ],
}


def test_run_json_says_all_that_a_reader_needs(finished):
    info = Run(finished[0]).info
    assert not [key for key in KEYS if key not in info]
    missing = {
        key: [name for name in names if name not in info[key]] for key, names in INNER.items()
    }
    assert not any(missing.values()), missing
    assert (info["status"], info["seed"], info["steps"], info["layers"]) == ("done", 0, 25, 2)
    assert info["parameters"] == (64 * 8 + 8) + 2 * (8 * 8 + 8) + (8 * 10 + 10)
    assert info["seconds"]["total"] == pytest.approx(
        info["seconds"]["compile"] + info["seconds"]["train"]
    )
    assert (finished[0].parents[2] / info["wandb"]).is_dir()


def test_a_run_leaves_its_record_and_its_configuration(finished):
    names = {
        str(file.relative_to(finished[0])) for file in finished[0].rglob("*") if file.is_file()
    }
    hydra = {f".hydra/{name}.yaml" for name in ("config", "overrides", "hydra")}
    assert names == {"run.json", "metrics.parquet", "profiles.parquet", *hydra}
    assert (
        yaml.safe_load((finished[0] / ".hydra" / "overrides.yaml").read_text())[0]
        == "model.depth=2"
    )


def test_there_is_one_row_a_step(finished):
    metrics, profiles = tables(Run(finished[0]))
    assert metrics["step"].to_pylist() == profiles["step"].to_pylist() == list(range(25))
    assert np.allclose(metrics["epoch"], np.arange(25) / 10)
    assert not [
        name for name in ("train_loss", "train_accuracy", "grad_norm") if metrics[name].null_count
    ]
    assert {"signal_grad", "grad_norm", "activation_rms", "activation_mean"} <= set(
        profiles.column_names
    )


def test_a_run_is_evaluated_each_epoch_and_at_its_end(finished):
    run = Run(finished[0])
    for name in ("eval_loss", "eval_accuracy"):
        assert np.flatnonzero(~np.isnan(run.metrics[name])).tolist() == [9, 19, 24]
        assert run.info["final"][name] == run.metrics[name][-1]


def test_the_final_training_numbers_are_means_over_the_last_epoch(finished):
    run = Run(finished[0])
    for name in ("train_loss", "train_accuracy"):
        assert run.info["final"][name] == pytest.approx(run.metrics[name][-10:].mean(), rel=1e-6)


def test_the_gradient_of_a_layer_is_part_of_the_whole(finished):
    run = Run(finished[0])
    assert np.all(np.sqrt((run.profiles["grad_norm"] ** 2).sum(axis=1)) < run.metrics["grad_norm"])


def test_the_end_of_a_run_is_said_in_words(finished):
    run = Run(finished[0])
    (code, out, err) = finished[1]
    assert code == 0 and "step 25/25" in err
    assert run.info["verdict"]["sentence"] in out and f"fathom show {run.directory}" in out
    assert f"{run.info['final']['eval_accuracy']:.3g}" in out


def test_the_same_seed_gives_the_same_record_and_another_seed_another(finished, trained):
    again = trained()[0]
    other = trained("seed=1")[0]
    for first, same, different in zip(*map(tables, (Run(finished[0]), again, other)), strict=True):
        assert first.equals(same)
        assert not first.equals(different)
    assert (again.info["verdict"], again.info["final"]) == tuple(
        Run(finished[0]).info[x] for x in ("verdict", "final")
    )
    assert len({run.info["id"] for run in (Run(finished[0]), again, other)}) == 3


def test_a_finished_run_is_left_as_it_is_and_another_setting_goes_elsewhere(trained, workplace):
    run, said = trained("name=x")
    files = [run.directory / f"{name}.parquet" for name in TABLES] + [run.directory / "run.json"]
    written = [file.stat().st_mtime_ns for file in files]
    again, said_again = trained("name=x")
    assert (
        again.directory == run.directory and [file.stat().st_mtime_ns for file in files] == written
    )
    assert "nothing was trained" in said_again.out and said_again.out.endswith(said.out)
    assert trained("name=x", "seed=1")[0].directory.parent == run.directory.parent
    assert len(list(workplace.glob("outputs/x/*/run.json"))) == 2


def test_a_finished_run_is_left_as_it_is_whatever_mirrors_it(trained):
    """The mirror changes no number: asking for another one must not cost the record."""
    run, _ = trained("name=x")
    written = (run.directory / "metrics.parquet").stat().st_mtime_ns
    again, _ = trained("name=x", "tracker.project=other")
    assert again.directory == run.directory
    assert (run.directory / "metrics.parquet").stat().st_mtime_ns == written


def test_an_unfinished_run_is_trained_again(trained):
    run, _ = trained("name=x")
    info = run.info | {"status": "interrupted"}
    (run.directory / "run.json").write_text(json.dumps(info))
    again, _ = trained("name=x")
    assert again.info["status"] == "done" and tables(again)[0].num_rows == 25


def test_profiles_at_an_interval(finished, trained):
    run, _ = trained("measure.every=5")
    steps = [0, 5, 10, 15, 20]
    assert run.profiles["step"].tolist() == steps
    assert np.flatnonzero(~np.isnan(run.metrics["grad_norm"])).tolist() == steps
    every = Run(finished[0])
    # What is compiled differs, so rounding may, and grows over the steps.
    assert np.allclose(run.metrics["train_loss"], every.metrics["train_loss"], rtol=1e-4)
    assert np.allclose(run.profiles["signal_grad"], every.profiles["signal_grad"][steps], rtol=1e-3)


def test_a_run_that_measures_nothing(finished, trained):
    run, said = trained("measure=off")
    assert run.info["verdict"] is None and not (run.directory / "profiles.parquet").exists()
    assert "grad_norm" not in run.metrics
    assert np.allclose(run.metrics["train_loss"], Run(finished[0]).metrics["train_loss"], rtol=1e-4)
    assert "eval loss" in said.out


def test_the_smallest_run_on_noise(trained):
    numbers = ["model.depth=1", "model.width=1", "train.batch_size=1", "train.steps=3"]
    run, _ = trained(
        "data=noise", "data.examples=2", "data.shape=[2,3]", "data.classes=3", *numbers
    )
    assert (run.info["data"]["name"], run.info["parameters"]) == (
        "noise",
        (6 + 1) + (1 + 1) + (3 + 3),
    )
    metrics, profiles = tables(run)
    assert metrics["step"].to_pylist() == profiles["step"].to_pylist() == [0, 1, 2]
    assert metrics["epoch"].to_pylist() == [0, 0.5, 1]
    assert {len(row) for row in profiles["signal_grad"]} == {2} and {
        len(row) for row in profiles["grad_norm"]
    } == {1}


def test_epochs_count_where_steps_do_not(trained):
    run, _ = trained("train.steps=null", "train.epochs=0.4")
    assert run.info["steps"] == 4


def test_float64_leaves_nothing_behind_in_the_process(finished, trained):
    wide, _ = trained("precision=float64")
    assert wide.info["status"] == "done"
    assert not jax.config.read("jax_enable_x64") and jnp.zeros(1).dtype == jnp.float32
    narrow, _ = trained()
    assert all(a.equals(b) for a, b in zip(tables(narrow), tables(Run(finished[0])), strict=True))
    # The first loss of both is that of one network, rounded.
    assert 0 < abs(wide.metrics["train_loss"][0] / narrow.metrics["train_loss"][0] - 1) < 0.5


def test_two_processes_cannot_write_one_run(tmp_path):
    first = RunRecord(Lock(tmp_path), {})
    with pytest.raises(ValueError, match="being trained by another process"):
        RunRecord(Lock(tmp_path), {})
    first.close(status="done")
    with pytest.raises(ValueError, match="being trained by another process"):
        Lock(tmp_path)
    first.release()
    RunRecord(Lock(tmp_path), {}).close()


def test_pieces_cover_every_step_once_and_stop_where_they_are_cut():
    generator = np.random.default_rng(0)
    for _ in range(300):
        steps, capacity, *cuts = (int(n) for n in generator.integers(1, (400, 70, 60, 60)))
        seconds = iter([None, None, *10.0 ** generator.uniform(-12, 1, 400)])
        pieces = list(chunks(steps, cuts, capacity, lambda: next(seconds)))
        assert [step for start, count in pieces for step in range(start, start + count)] == list(
            range(steps)
        )
        assert [count for _, count in pieces[:2]] in ([1], [1, 1])
        assert all(1 <= count <= capacity for _, count in pieces)
        for every in cuts:
            assert all(start // every == (start + count - 1) // every for start, count in pieces)


@pytest.mark.parametrize("pace", [0.0, math.inf, None])
def test_pieces_of_any_pace(pace):
    pieces = list(chunks(100, [100], 16, lambda: pace))
    assert max(count for _, count in pieces) == (16 if pace == 0 else 1)
