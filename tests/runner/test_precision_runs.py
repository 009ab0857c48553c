"""Runs in several number formats from the command line: what is recorded, what is said, what leaks."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from research.records.runs import Run, find_runs
from research.theory.formats import BINS

SHRINKING = [
    "model.depth=20",
    "model.width=32",
    "init=gaussian",
    "init.sigma_b=0.3",
    "train.steps=20",
]


@pytest.fixture(scope="module")
def underflowing(fathom, tmp_path_factory):
    """A run in float16 whose gradient ends within the network, exponents counted twice."""
    place = tmp_path_factory.mktemp("underflow") / "run"
    mirrored = ["tracker=wandb", f"tracker.dir={place.parent}"]
    scaled = ["precision=float16", "precision.loss_scaling=static", "precision.loss_scale=0.001"]
    measured = [
        "measure=full",
        "measure.every=1",
        "measure.exponents_every=15",
        f"hydra.run.dir={place}",
    ]
    return Run(place), fathom("train", *scaled, *measured, *SHRINKING, *mirrored)


def test_exponents_are_recorded_where_they_were_counted_and_null_elsewhere(underflowing):
    run, said = underflowing
    assert said.code == 0, said.err
    table = pq.read_table(run.directory / "profiles.parquet")
    counted = [step in (0, 15) for step in table["step"].to_pylist()]
    assert len(counted) == 20 and sum(counted) == 2
    for name in (
        "signal_zero",
        "grad_zero",
        "grad_subnormal",
        "grad_nonfinite",
        "grad_exponent",
        "signal_lost",
    ):
        assert [value is not None for value in table[name].to_pylist()] == counted, name
        layers = 21 if name.startswith("signal") else 20
        assert run.profiles[name].shape == (20, layers, *([BINS] if "exponent" in name else []))
    rows = [run.profiles[name][0] for name in ("grad_zero", "grad_nonfinite")]
    np.testing.assert_allclose(run.profiles["grad_exponent"][0].sum(-1) + sum(rows), 1, atol=1e-6)


def test_underflow_is_told_from_vanishing(underflowing):
    run, said = underflowing
    verdict = run.info["verdict"]
    assert verdict["kind"] == "underflow" and 0.2 < verdict["lost_fraction"] < 1
    assert verdict["lost_fraction"] == pytest.approx(
        np.nanmean(run.profiles["signal_lost"][15]), rel=1e-5
    )
    for part in (
        "layers 0–",
        "% of the gradient is zero in float16",
        "a loss scale of 2^",
        "would keep 99 %",
    ):
        assert part in verdict["sentence"]
    assert "try precision.loss_scaling=dynamic" in said.out


def test_the_dashboard_shows_what_each_layer_loses_where_it_was_counted(
    underflowing, wandb_records
):
    run, _ = underflowing
    records = [
        record["history"]["item"]
        for record in wandb_records(run.info["wandb"])
        if record["type"] == "history"
    ]
    rows = [row for row in records if "train/loss" in row]
    for name, layers in (
        ("signal_zero", 21),
        ("signal_lost", 21),
        ("grad_zero", 20),
        ("grad_lost", 20),
    ):
        for step, row in enumerate(rows):
            shown = {key: value for key, value in row.items() if key.startswith(f"{name}/layer_")}
            assert len(shown) == (layers if step in (0, 15) else 0)
            np.testing.assert_allclose(
                list(shown.values()), run.profiles[name][step][: len(shown)], rtol=1e-6
            )
    scales = [
        (row["train/loss_scale"], row["train/skipped"], type(row["train/skipped"])) for row in rows
    ]
    assert scales == [(pytest.approx(0.001), 0, int)] * 20


@pytest.mark.slow
def test_a_sweep_over_formats_in_one_process_leaks_nothing(fathom, workplace):
    """The first float32 run and the last are equal, bit by bit; within a sweep the same run is trained once."""
    small = ["model.depth=2", "model.width=8", "train.steps=5", "tracker=none"]
    sweep = fathom(
        "train", "-m", "precision=float32,float64,float16,bfloat16,float32", *small, "name=x"
    )
    again = fathom("train", "precision=float32", *small, "name=y")
    assert sweep.code == again.code == 0, sweep.err + again.err
    assert (
        "4 of 4 runs to train, 4 compiled programs; duplicate jobs, trained once: 1\n"
        in sweep.err
    )
    (last,) = find_runs(workplace / "outputs" / "y")
    runs = {run["precision.kind"]: run for run in find_runs(workplace / "outputs" / "x")}
    for table in ("metrics", "profiles"):
        before, after = (
            pq.read_table(run.directory / f"{table}.parquet") for run in (runs["float32"], last)
        )
        assert before.equals(after)
    assert runs["float32"].info["final"] == last.info["final"]
    losses = {run.metrics["train_loss"].tobytes() for run in runs.values()}
    assert len(losses) == 4
