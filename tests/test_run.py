import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from research.recording import first_bad_layer
from research.records.analysis import Run
from research.records.record import Record
from research.run import chunks

TABLES = ("metrics", "profiles")


def only_run(place):
    (file,) = place.glob("outputs/*/*/run.json")
    return Run(file.parent)


def tables(run):
    return [pq.read_table(run.directory / f"{name}.parquet") for name in TABLES]


@pytest.fixture
def trained(fathom, small, workplace):
    """Trains a small run without a tracker and reads it back: the run, and what was said."""

    def train(*overrides, code=0):
        said = fathom("train", *small, "tracker=none", f"name={len(list(workplace.glob('outputs/*')))}", *overrides)
        assert said.code == code, said.err
        return Run(max(workplace.glob("outputs/*/*/run.json"), key=lambda file: file.stat().st_mtime_ns).parent), said

    return train


KEYS = "id status seed versions git device parameters layers data seconds steps final verdict".split()
INNER = {
    "versions": ["fathom", "python", "jax"],
    "device": ["platform", "kind"],
    "data": ["name", "version", "split", "fingerprint"],
    "seconds": ["compile", "train", "total"],
    "final": ["train_loss", "train_accuracy", "eval_loss", "eval_accuracy"],
    "verdict": "kind factor_per_layer interval ratio first_layer since_step theory sentence".split(),
}


def test_run_json_says_all_that_a_reader_needs(finished):
    info = Run(finished[0]).info
    assert not [key for key in KEYS if key not in info]
    missing = {key: [name for name in names if name not in info[key]] for key, names in INNER.items()}
    assert not any(missing.values()), missing
    assert (info["status"], info["seed"], info["steps"], info["layers"]) == ("done", 0, 25, 2)
    assert info["parameters"] == (64 * 8 + 8) + 2 * (8 * 8 + 8) + (8 * 10 + 10)
    assert info["seconds"]["total"] == pytest.approx(info["seconds"]["compile"] + info["seconds"]["train"])
    assert (finished[0].parents[2] / info["wandb"]).is_dir()


def test_a_run_leaves_its_record_and_its_configuration(finished):
    names = {str(file.relative_to(finished[0])) for file in finished[0].rglob("*") if file.is_file()}
    hydra = {f".hydra/{name}.yaml" for name in ("config", "overrides", "hydra")}
    assert names == {"run.json", "metrics.parquet", "profiles.parquet", *hydra}
    assert yaml.safe_load((finished[0] / ".hydra" / "overrides.yaml").read_text())[0] == "model.depth=2"


def test_there_is_one_row_a_step(finished):
    metrics, profiles = tables(Run(finished[0]))
    assert metrics["step"].to_pylist() == profiles["step"].to_pylist() == list(range(25))
    assert np.allclose(metrics["epoch"], np.arange(25) / 10)
    assert not [name for name in ("train_loss", "train_accuracy", "grad_norm") if metrics[name].null_count]
    assert {"signal_grad", "grad_norm", "activation_rms", "activation_mean"} <= set(profiles.column_names)


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
    run, (code, out, err) = Run(finished[0]), finished[1]
    assert code == 0 and "step 25/25" in err
    assert run.info["verdict"]["sentence"] in out and f"fathom show {run.directory}" in out
    assert f"{run.info['final']['eval_accuracy']:.3g}" in out


def test_the_same_seed_gives_the_same_record_and_another_seed_another(finished, trained):
    again, other = trained()[0], trained("seed=1")[0]
    for first, same, different in zip(*map(tables, (Run(finished[0]), again, other)), strict=True):
        assert first.equals(same)
        assert not first.equals(different)
    assert (again.info["verdict"], again.info["final"]) == tuple(Run(finished[0]).info[x] for x in ("verdict", "final"))
    assert len({run.info["id"] for run in (Run(finished[0]), again, other)}) == 3


def test_a_finished_run_is_left_as_it_is_and_another_setting_goes_elsewhere(trained, workplace):
    run, said = trained("name=x")
    files = [run.directory / f"{name}.parquet" for name in TABLES] + [run.directory / "run.json"]
    written = [file.stat().st_mtime_ns for file in files]
    again, said_again = trained("name=x")
    assert again.directory == run.directory and [file.stat().st_mtime_ns for file in files] == written
    assert "nothing trained" in said_again.out and said_again.out.endswith(said.out)
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
    assert "held out: loss" in said.out


def test_the_smallest_run_on_noise(trained):
    numbers = ["model.depth=1", "model.width=1", "train.batch_size=1", "train.steps=3"]
    run, _ = trained("data=noise", "data.examples=2", "data.shape=[2,3]", "data.classes=3", *numbers)
    assert (run.info["data"]["name"], run.info["parameters"]) == ("noise", (6 + 1) + (1 + 1) + (3 + 3))
    metrics, profiles = tables(run)
    assert metrics["step"].to_pylist() == profiles["step"].to_pylist() == [0, 1, 2]
    assert metrics["epoch"].to_pylist() == [0, 0.5, 1]
    assert {len(row) for row in profiles["signal_grad"]} == {2} and {len(row) for row in profiles["grad_norm"]} == {1}


def test_epochs_count_where_steps_do_not(trained):
    run, _ = trained("train.steps=null", "train.epochs=0.4")
    assert run.info["steps"] == 4


def test_a_diverging_run_names_step_and_layer(trained):
    run, said = trained("optimizer.learning_rate=1e30", code=1)
    verdict = run.info["verdict"]
    assert run.info["status"] == verdict["kind"] == "diverged"
    bad = verdict["since_step"]
    assert bad >= 1 and 0 <= verdict["first_layer"] <= 2
    assert run.info["steps"] == bad + 1 and run.metrics["step"].tolist() == list(range(bad + 1))
    assert np.isfinite(run.metrics["train_loss"][:bad]).all()
    profiles = run.profiles
    assert not all(np.isfinite(profiles[name][bad]).all() for name in ("signal_grad", "grad_norm", "activation_rms"))
    assert f"step {bad}" in said.out and f"layer {verdict['first_layer']}" in said.out and "1e+30" in said.out
    assert "nan" not in said.out
    assert verdict["initial"]["kind"] in ("healthy", "vanishing", "exploding")


def test_a_run_that_measures_nothing_diverges_too(trained):
    run, said = trained("measure=off", "optimizer.learning_rate=1e30", code=1)
    assert run.info["status"] == "diverged" and run.info["verdict"]["first_layer"] is None
    assert "diverged: the numbers stop being finite at step" in said.out


@pytest.mark.parametrize(
    "setting",
    [
        "init.gain=0",
        "init.gain=1e-25",
        "init.gain=1e-12",
        "init.gain=1e6",
        "optimizer.learning_rate=0",
        "init.sigma_b=9",
    ],
)
def test_the_ends_of_a_range_are_judged_and_not_fallen_over(trained, setting):
    run, said = trained(setting, code=1 if setting == "init.gain=1e6" else 0)
    kinds = {"init.gain=0": {"dead"}, "optimizer.learning_rate=0": {"healthy"}, "init.gain=1e6": {"diverged"}}
    allowed = kinds.get(setting, {"healthy", "vanishing", "dead"})
    assert run.info["verdict"]["kind"] in allowed, run.info["verdict"]["sentence"]
    assert "Warning" not in said.err


def test_float64_leaves_nothing_behind_in_the_process(finished, trained):
    wide, _ = trained("precision=float64")
    assert wide.info["status"] == "done"
    assert not jax.config.read("jax_enable_x64") and jnp.zeros(1).dtype == jnp.float32
    narrow, _ = trained()
    assert all(a.equals(b) for a, b in zip(tables(narrow), tables(Run(finished[0])), strict=True))
    # The first loss of both is that of one network, rounded.
    assert 0 < abs(wide.metrics["train_loss"][0] / narrow.metrics["train_loss"][0] - 1) < 0.5


def test_an_interruption_before_the_first_step_is_said_in_one_line(fathom, small, workplace, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("research.run.make_program", interrupted)
    said = fathom("train", *small)
    assert said.code == 1 and said.err.count("\n") == 1 and "interrupted" in said.err
    assert only_run(workplace).info["status"] == "interrupted"


def test_a_defect_is_recorded_with_what_was_measured(fathom, small, workplace, monkeypatch):
    from research.records.record import Record

    add = Record.add

    def breaks(record, metrics, profiles):
        add(record, metrics, profiles)
        if metrics["step"][-1] >= 9:
            raise KeyError("oops")

    monkeypatch.setattr(Record, "add", breaks)
    with pytest.raises(KeyError, match="oops"):
        fathom("train", *small, "tracker=none")
    run = only_run(workplace)
    assert run.info["status"] == "failed" and "oops" in run.info["error"]
    assert len(run.metrics["step"]) >= 9


TERMINATED = """
import os, signal, sys
from research import cli
from research.progress import Progress

def step(self, done, total, **values):
    if done >= 30:
        os.kill(os.getpid(), signal.SIGTERM)

Progress.step = step
sys.argv = ["fathom", "train", *sys.argv[1:]]
cli.main()
"""


def test_termination_leaves_a_readable_record_and_a_finished_wandb_run(small, workplace, process, wandb_records):
    ended = process("-c", TERMINATED, *small, "data=noise", "train.steps=100000", "train.eval_every=10")
    assert ended.communicate()[1] == "fathom: interrupted; what was measured is written\n"
    assert ended.returncode == 1
    run = only_run(workplace)
    assert run.info["status"] == "interrupted" and run.info["steps"] >= 30
    assert run.metrics["step"].tolist() == run.profiles["step"].tolist() == list(range(run.info["steps"]))
    records = wandb_records(workplace / run.info["wandb"])
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert [row["train/step"] for row in rows if "train/loss" in row] == list(range(run.info["steps"]))
    assert [record["exit"]["exit_code"] for record in records if record["type"] == "exit"] == [1]


def test_pieces_cover_every_step_once_and_stop_where_they_are_cut():
    generator = np.random.default_rng(0)
    for _ in range(300):
        steps, capacity, *cuts = (int(n) for n in generator.integers(1, (400, 70, 60, 60)))
        seconds = iter([None, None, *10.0 ** generator.uniform(-12, 1, 400)])
        pieces = list(chunks(steps, cuts, capacity, lambda: next(seconds)))  # noqa: B023
        assert [step for start, count in pieces for step in range(start, start + count)] == list(range(steps))
        assert [count for _, count in pieces[:2]] in ([1], [1, 1])
        assert all(1 <= count <= capacity for _, count in pieces)
        for every in cuts:
            assert all(start // every == (start + count - 1) // every for start, count in pieces)


@pytest.mark.parametrize("pace", [0.0, math.inf, None])
def test_pieces_of_any_pace(pace):
    pieces = list(chunks(100, [100], 16, lambda: pace))
    assert max(count for _, count in pieces) == (16 if pace == 0 else 1)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("rms", "signal", "norm", "layer"),
    [
        ([1, 1, INF, NAN], [NAN] * 4, [NAN] * 3, 2),  # forward numbers break first: the lowest layer
        ([NAN] * 4, [NAN] * 4, [NAN] * 3, 0),
        ([1] * 4, [INF, NAN, 1, 1], [NAN] * 3, 1),  # then backward ones: the highest layer
        ([1] * 4, [1] * 4, [INF, INF, 1], 1),
        ([1] * 4, [1] * 4, [1] * 3, None),
    ],
)
def test_the_first_layer_whose_numbers_break(rms, signal, norm, layer):
    profile = {"activation_rms": rms, "signal_grad": signal, "grad_norm": norm}
    rows = {name: np.array([np.ones(len(values)), values]) for name, values in profile.items()}
    assert first_bad_layer(rows, 1) == layer
    assert first_bad_layer(rows, 0) is None


def test_divergence_at_a_step_that_is_not_measured_names_no_layer(trained):
    run, _ = trained("model.depth=8", "measure=full", "optimizer.learning_rate=1e4", code=1)
    assert run.info["status"] == "diverged" and run.info["steps"] % 10 != 1
    assert run.info["verdict"]["first_layer"] is None


def test_two_processes_cannot_write_one_run(tmp_path):
    first = Record(tmp_path, {})
    with pytest.raises(ValueError, match="being trained by another process"):
        Record(tmp_path, {})
    first.close(status="done")
    Record(tmp_path, {}).close()


def test_nothing_measured_no_layer():
    assert first_bad_layer({}, 0) is None
