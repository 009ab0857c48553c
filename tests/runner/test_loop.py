"""What a single run records, and how the host loop cuts it into chunks."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from research.records.record import Lock, RunRecord
from research.records.runs import Run
from research.runner.loop import plan_chunks

from .reading import have_same_tables, read_table, relative_files

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
INNER_KEYS = {
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


@pytest.fixture
def finished_run(finished):
    directory, _ = finished
    return Run(directory)


def test_run_json_has_all_that_a_reader_needs(finished, finished_run):
    info = finished_run.info

    assert not set(KEYS) - set(info)
    for key, names in INNER_KEYS.items():
        assert not set(names) - set(info[key]), key
    assert info["status"] == "done"
    assert info["seed"] == 0
    assert info["steps"] == 25
    assert info["layers"] == 2
    embedding = 64 * 8 + 8
    layer = 8 * 8 + 8
    head = 8 * 10 + 10
    assert info["parameters"] == embedding + 2 * layer + head
    seconds = info["seconds"]
    assert seconds["total"] == pytest.approx(seconds["compile"] + seconds["train"])
    assert (finished[0].parents[2] / info["wandb"]).is_dir()


def test_a_run_leaves_its_record_and_its_configuration(finished_run):
    directory = finished_run.directory

    assert relative_files(directory) == {
        "run.json",
        "metrics.parquet",
        "profiles.parquet",
        ".hydra/config.yaml",
        ".hydra/overrides.yaml",
        ".hydra/hydra.yaml",
    }
    overrides = yaml.safe_load((directory / ".hydra" / "overrides.yaml").read_text())
    assert overrides[0] == "model.depth=2"


def test_there_is_one_row_for_each_step(finished_run):
    metrics = read_table(finished_run, "metrics")
    profiles = read_table(finished_run, "profiles")

    assert metrics["step"].to_pylist() == list(range(25))
    assert profiles["step"].to_pylist() == list(range(25))
    assert np.allclose(metrics["epoch"], np.arange(25) / 10)
    for name in ("train_loss", "train_accuracy", "grad_norm"):
        assert metrics[name].null_count == 0
    gauges = {"signal_grad", "grad_norm", "activation_rms", "activation_mean"}
    assert gauges <= set(profiles.column_names)


def test_a_run_is_evaluated_after_each_epoch_and_at_its_end(finished_run):
    for name in ("eval_loss", "eval_accuracy"):
        values = finished_run.metrics[name]
        assert np.flatnonzero(~np.isnan(values)).tolist() == [9, 19, 24]
        assert finished_run.info["final"][name] == values[-1]


def test_the_final_training_numbers_are_means_over_the_last_epoch(finished_run):
    for name in ("train_loss", "train_accuracy"):
        last_epoch = finished_run.metrics[name][-10:]
        assert finished_run.info["final"][name] == pytest.approx(last_epoch.mean(), rel=1e-6)


def test_the_gradients_of_the_layers_are_less_than_the_whole(finished_run):
    squares = finished_run.profiles["grad_norm"] ** 2
    of_layers = np.sqrt(squares.sum(axis=1))
    assert np.all(of_layers < finished_run.metrics["grad_norm"])


def test_the_end_of_a_run_is_reported(finished, finished_run):
    _, (code, out, err) = finished

    assert code == 0
    assert "step 25/25" in err
    assert finished_run.info["verdict"]["sentence"] in out
    assert f"fathom show {finished_run.directory}" in out
    assert f"{finished_run.info['final']['eval_accuracy']:.3g}" in out


def test_the_same_seed_gives_the_same_record_and_another_seed_another(finished_run, trained):
    again, _ = trained()
    other, _ = trained("seed=1")

    for name in ("metrics", "profiles"):
        table = read_table(finished_run, name)
        assert read_table(again, name).equals(table)
        assert not read_table(other, name).equals(table)
    assert again.info["verdict"] == finished_run.info["verdict"]
    assert again.info["final"] == finished_run.info["final"]
    ids = {finished_run.info["id"], again.info["id"], other.info["id"]}
    assert len(ids) == 3  # each is recorded in another folder


def test_a_finished_run_is_left_as_it_is_and_another_setting_goes_elsewhere(trained, workplace):
    run, result = trained("name=x")
    files = [run.directory / name for name in ("metrics.parquet", "profiles.parquet", "run.json")]
    written = [file.stat().st_mtime_ns for file in files]

    again, result_again = trained("name=x")

    assert again.directory == run.directory
    assert [file.stat().st_mtime_ns for file in files] == written
    assert "nothing was trained" in result_again.out
    assert result_again.out.endswith(result.out)
    other, _ = trained("name=x", "seed=1")
    assert other.directory.parent == run.directory.parent
    assert len(list(workplace.glob("outputs/x/*/run.json"))) == 2


def test_a_finished_run_is_left_as_it_is_whatever_the_tracker(trained):
    """The tracker changes no number: asking for another one must not cost the record."""
    run, _ = trained("name=x")
    file = run.directory / "metrics.parquet"
    written = file.stat().st_mtime_ns

    again, _ = trained("name=x", "tracker=wandb", "tracker.project=other")

    assert again.directory == run.directory
    assert file.stat().st_mtime_ns == written


def test_an_unfinished_run_is_trained_again(trained):
    run, _ = trained("name=x")
    info = run.info | {"status": "interrupted"}
    (run.directory / "run.json").write_text(json.dumps(info))

    again, _ = trained("name=x")

    assert again.info["status"] == "done"
    assert len(again.metrics["step"]) == 25


def test_profiles_at_an_interval(finished_run, trained):
    run, _ = trained("measure.every=5")

    steps = [0, 5, 10, 15, 20]
    assert run.profiles["step"].tolist() == steps
    assert np.flatnonzero(~np.isnan(run.metrics["grad_norm"])).tolist() == steps
    # Another program rounds differently, and the difference grows over the steps.
    losses = finished_run.metrics["train_loss"]
    signal_grads = finished_run.profiles["signal_grad"][steps]
    assert np.allclose(run.metrics["train_loss"], losses, rtol=1e-4)
    assert np.allclose(run.profiles["signal_grad"], signal_grads, rtol=1e-3)


def test_a_run_that_measures_nothing(finished_run, trained):
    run, result = trained("measure=off")

    assert run.info["verdict"] is None
    assert not (run.directory / "profiles.parquet").exists()
    assert "grad_norm" not in run.metrics
    losses = finished_run.metrics["train_loss"]
    assert np.allclose(run.metrics["train_loss"], losses, rtol=1e-4)
    assert "eval loss" in result.out


def test_the_smallest_run_on_noise(trained):
    run, _ = trained(
        "data=noise",
        "data.examples=2",
        "data.shape=[2,3]",
        "data.classes=3",
        "model.depth=1",
        "model.width=1",
        "train.batch_size=1",
        "train.steps=3",
    )

    assert run.info["data"]["name"] == "noise"
    embedding = 6 + 1
    layer = 1 + 1
    head = 3 + 3
    assert run.info["parameters"] == embedding + layer + head
    metrics = read_table(run, "metrics")
    profiles = read_table(run, "profiles")
    assert metrics["step"].to_pylist() == profiles["step"].to_pylist() == [0, 1, 2]
    assert metrics["epoch"].to_pylist() == [0, 0.5, 1]
    assert set(map(len, profiles["signal_grad"])) == {2}
    assert set(map(len, profiles["grad_norm"])) == {1}


def test_epochs_count_where_steps_are_not_set(trained):
    run, _ = trained("train.steps=null", "train.epochs=0.4")
    assert run.info["steps"] == 4


@pytest.mark.slow
def test_float64_does_not_change_what_the_process_computes_afterwards(finished_run, trained):
    wide, _ = trained("precision=float64")

    assert wide.info["status"] == "done"
    assert not jax.config.read("jax_enable_x64")
    assert jnp.zeros(1).dtype == jnp.float32
    narrow, _ = trained()
    assert have_same_tables(narrow, finished_run)
    # The first losses are those of one network, rounded.
    ratio = wide.metrics["train_loss"][0] / narrow.metrics["train_loss"][0]
    assert 0 < abs(ratio - 1) < 0.5


def test_two_processes_cannot_write_one_run(tmp_path):
    message = "being trained by another process"
    first = RunRecord(Lock(tmp_path), {})
    with pytest.raises(ValueError, match=message):
        RunRecord(Lock(tmp_path), {})
    first.close(status="done")
    with pytest.raises(ValueError, match=message):
        Lock(tmp_path)

    first.release()

    RunRecord(Lock(tmp_path), {}).close()


def test_chunks_cover_every_step_once_and_end_at_the_cuts():
    generator = np.random.default_rng(0)
    for _ in range(300):
        sizes = generator.integers(1, (400, 70, 60, 60))
        num_steps, capacity, *cuts = sizes.tolist()
        seconds = iter([None, None, *10.0 ** generator.uniform(-12, 1, 400)])

        chunks = list(
            plan_chunks(
                num_steps,
                cuts=cuts,
                capacity=capacity,
                seconds_per_step=lambda seconds=seconds: next(seconds),
            )
        )

        steps = []
        for start, count in chunks:
            assert 1 <= count <= capacity
            steps.extend(range(start, start + count))
            for interval in cuts:
                assert start // interval == (start + count - 1) // interval
        assert steps == list(range(num_steps))
        assert [count for _, count in chunks[:2]] in ([1], [1, 1])


@pytest.mark.parametrize(("seconds", "longest"), [(0.0, 16), (math.inf, 1), (None, 1)])
def test_chunks_are_as_long_as_the_time_of_a_step_allows(seconds, longest):
    chunks = plan_chunks(100, cuts=[100], capacity=16, seconds_per_step=lambda: seconds)
    assert max(count for _, count in chunks) == longest
