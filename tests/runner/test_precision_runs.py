"""Runs in several number formats: what they record and report, and that none affects the next."""

import numpy as np
import pytest

from research.records.runs import Run, find_runs
from research.theory.formats import BINS

from .reading import find_wandb_rows, have_same_tables, read_table

STEPS = 20
COUNTED_STEPS = (0, 15)
LAYERS_PER_GAUGE = {
    "signal_zero": 21,
    "signal_lost": 21,
    "grad_zero": 20,
    "grad_lost": 20,
}


@pytest.fixture(scope="module")
def underflowing(fathom, tmp_path_factory):
    """A float16 run whose gradient underflows inside the network, with exponents counted twice."""
    place = tmp_path_factory.mktemp("underflow") / "run"
    result = fathom(
        "train",
        "precision=float16",
        "precision.loss_scaling=static",
        "precision.loss_scale=0.001",
        "measure=full",
        "measure.every=1",
        "measure.exponents_every=15",
        "model.depth=20",
        "model.width=32",
        "init=gaussian",
        "init.sigma_b=0.3",
        f"train.steps={STEPS}",
        "tracker=wandb",
        "tracker.layers=all",
        f"tracker.dir={place.parent}",
        f"hydra.run.dir={place}",
    )
    return Run(place), result


@pytest.mark.slow
def test_exponents_are_recorded_where_they_were_counted_and_null_elsewhere(underflowing):
    run, result = underflowing

    assert result.code == 0, result.err
    table = read_table(run, "profiles")
    steps = table["step"].to_pylist()
    assert steps == list(range(STEPS))
    names = ("signal_zero", "grad_zero", "grad_subnormal", "grad_nonfinite", "signal_lost")
    for name in (*names, "grad_exponent"):
        values = table[name].to_pylist()
        counted = [step for step, value in zip(steps, values, strict=True) if value is not None]
        assert counted == list(COUNTED_STEPS), name
    for name in names:
        layers = 21 if name.startswith("signal") else 20
        assert run.profiles[name].shape == (STEPS, layers)
    assert run.profiles["grad_exponent"].shape == (STEPS, 20, BINS)
    fractions = (
        run.profiles["grad_exponent"][0].sum(-1)
        + run.profiles["grad_zero"][0]
        + run.profiles["grad_nonfinite"][0]
    )
    np.testing.assert_allclose(fractions, 1, atol=1e-6)


def test_underflow_is_told_from_vanishing(underflowing):
    run, result = underflowing

    verdict = run.info["verdict"]
    lost = np.nanmean(run.profiles["signal_lost"][15])
    assert verdict["kind"] == "underflow"
    assert 0.2 < verdict["lost_fraction"] < 1
    assert verdict["lost_fraction"] == pytest.approx(lost, rel=1e-5)
    for part in (
        "% of the gradient of layers 0–",
        "is zero in float16 but not in float32",
        "a loss scale of 2^",
        "would keep 99 %",
    ):
        assert part in verdict["sentence"]
    assert "or precision.loss_scaling=dynamic" in result.out


def test_the_dashboard_shows_what_each_layer_loses_where_it_was_counted(
    underflowing, wandb_records
):
    run, _ = underflowing

    rows = find_wandb_rows(wandb_records(run.info["wandb"]))

    assert len(rows) == STEPS
    for name, layers in LAYERS_PER_GAUGE.items():
        for step, row in enumerate(rows):
            shown = [value for key, value in row.items() if key.startswith(f"{name}_layers/")]
            assert len(shown) == (layers if step in COUNTED_STEPS else 0)
            expected = run.profiles[name][step][: len(shown)]
            np.testing.assert_allclose(shown, expected, rtol=1e-6)
    for row in rows:
        assert row["train/loss_scale"] == pytest.approx(0.001)
        assert row["train/skipped"] == 0
        assert type(row["train/skipped"]) is int


@pytest.mark.slow
def test_a_sweep_over_formats_in_one_process_leaks_nothing(fathom, workplace):
    """A float32 run after all others is the first one, bit for bit; a sweep trains it once."""
    small = ["model.depth=2", "model.width=8", "train.steps=5", "tracker=none"]
    formats = "precision=float32,float64,float16,bfloat16,float32"

    sweep = fathom("train", "-m", formats, *small, "name=x")
    again = fathom("train", "precision=float32", *small, "name=y")

    assert sweep.code == 0, sweep.err
    assert again.code == 0, again.err
    line = "4 of 4 runs to train, 4 compiled programs; duplicate jobs, trained once: 1\n"
    assert line in sweep.err
    runs = {run["precision.kind"]: run for run in find_runs(workplace / "outputs" / "x")}
    (last,) = find_runs(workplace / "outputs" / "y")
    first = runs["float32"]
    assert have_same_tables(first, last)
    assert first.info["final"] == last.info["final"]
    losses = {run.metrics["train_loss"].tobytes() for run in runs.values()}
    assert len(losses) == 4
