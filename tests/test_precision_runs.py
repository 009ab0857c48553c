"""Runs in several number formats from the command line: what is recorded, what is said, what leaks."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from research.gauges.formats import BINS
from research.records.analysis import Run, find_runs

SHRINKING = ["model.depth=20", "model.width=32", "init=gaussian", "init.sigma_b=0.3", "train.steps=20", "tracker=none"]


@pytest.fixture(scope="module")
def underflowing(fathom, tmp_path_factory):
    """A run in float16 whose gradient ends within the network, exponents counted twice."""
    place = tmp_path_factory.mktemp("underflow") / "run"
    scaled = ["precision=float16", "precision.loss_scaling=static", "precision.loss_scale=0.001"]
    measured = ["measure=full", "measure.every=1", "measure.exponents_every=15", f"hydra.run.dir={place}"]
    return Run(place), fathom("train", *scaled, *measured, *SHRINKING)


def test_exponents_are_recorded_where_they_were_counted_and_null_elsewhere(underflowing):
    run, said = underflowing
    assert said.code == 0, said.err
    table = pq.read_table(run.directory / "profiles.parquet")
    counted = [step in (0, 15) for step in table["step"].to_pylist()]
    assert len(counted) == 20 and sum(counted) == 2
    for name in ("signal_zero", "grad_zero", "grad_subnormal", "grad_nonfinite", "grad_exponent", "signal_lost"):
        assert [value is not None for value in table[name].to_pylist()] == counted, name
        layers = 21 if name.startswith("signal") else 20
        assert run.profiles[name].shape == (20, layers, *([BINS] if "exponent" in name else []))
    rows = [run.profiles[name][0] for name in ("grad_zero", "grad_nonfinite")]
    np.testing.assert_allclose(run.profiles["grad_exponent"][0].sum(-1) + sum(rows), 1, atol=1e-6)


def test_underflow_is_told_from_vanishing(underflowing):
    run, said = underflowing
    verdict = run.info["verdict"]
    assert verdict["kind"] == "underflow" and 0.2 < verdict["lost_fraction"] < 1
    assert verdict["lost_fraction"] == pytest.approx(np.nanmean(run.profiles["signal_lost"][15]), rel=1e-5)
    for part in ("layers 0–", "% of the gradient is zero in float16", "a loss scale of 2^", "would keep 99 %"):
        assert part in verdict["sentence"]
    assert "try precision.loss_scaling=dynamic" in said.out


@pytest.mark.slow
def test_a_sweep_over_formats_in_one_process_leaks_nothing(fathom, workplace):
    """The first float32 run and the last are equal, bit by bit."""
    small = ["model.depth=2", "model.width=8", "train.steps=5", "tracker=none"]
    sweep = fathom("train", "-m", "precision=float32,float64,float16,bfloat16", *small, "name=x")
    again = fathom("train", "precision=float32", *small, "name=y")
    assert sweep.code == again.code == 0, sweep.err + again.err
    (last,) = find_runs(workplace / "outputs" / "y")
    runs = {run["precision.kind"]: run for run in find_runs(workplace / "outputs" / "x")}
    for table in ("metrics", "profiles"):
        before, after = (pq.read_table(run.directory / f"{table}.parquet") for run in (runs["float32"], last))
        assert before.equals(after)
    assert runs["float32"].info["final"] == last.info["final"]
    losses = {run.metrics["train_loss"].tobytes() for run in runs.values()}
    assert len(losses) == 4
