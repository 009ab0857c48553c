"""What is measured of a run before training, against plain computations."""

import dataclasses

import numpy as np
import pytest

from research.diagnosis.prediction import config_from_settings, with_change
from research.records.runs import Run
from research.runner.preflight import measure_configs
from research.runner.run_spec import RunSpec
from research.runner.session import Session, train_group

SMALL = "model.width=8 train.batch_size=32 data.limit=256 train.steps=2 checkpoint.every=null"


def make_config(change):
    return config_from_settings(with_change({}, f"{SMALL} {change}"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        "optimizer=adam optimizer.learning_rate=0.001",
        "model=cnn norm=batch",
        "model=transformer model.heads=2 norm=layer precision=mixed_bfloat16",
        "model=rnn init=orthogonal activation=tanh model.depth=4",
        "optimizer=muon precision=float64",
        "precision=float16 precision.loss_scaling=dynamic skip=stochastic_depth",
    ],
)
def test_the_measurement_is_that_of_the_first_step_of_the_run(change, tmp_path):
    config = make_config(f"model.depth=4 {change} measure=full")

    (measured,) = measure_configs([config], trial_steps=2)
    train_group([RunSpec(config, tmp_path / "study" / "run")], Session())

    run = Run(tmp_path / "study" / "run")
    assert measured.signal_grad is not None
    assert measured.update_ratio is not None
    assert measured.trial is not None
    losses = run.metrics["train_loss"]
    np.testing.assert_allclose(measured.loss, losses[0], rtol=1e-3)
    np.testing.assert_allclose(measured.loss_after, losses[1], rtol=0.02)
    signal_grad = run.profiles["signal_grad"][0]
    np.testing.assert_allclose(measured.signal_grad, signal_grad, rtol=1e-3, atol=1e-12)
    update_ratio = run.profiles["update_ratio"][0]
    np.testing.assert_allclose(measured.update_ratio, update_ratio, rtol=1e-3, atol=1e-12)
    np.testing.assert_allclose(measured.trial[0], measured.loss, rtol=0.02)
    assert measured.steps == 2


@pytest.mark.slow
@pytest.mark.parametrize("change", ["model.depth=3 activation=tanh", "model=cnn model.depth=2"])
def test_the_sharpness_is_that_of_the_inspection(change, tmp_path):
    config = make_config(f"{change} data.limit=32 measure.inspect_every=50 optimizer=momentum")
    inspected = dataclasses.replace(
        config, measure=dataclasses.replace(config.measure, inspect=("sharpness",))
    )

    (measured,) = measure_configs([config])
    train_group([RunSpec(inspected, tmp_path / "study" / "run")], Session())

    recorded = Run(tmp_path / "study" / "run").inspections["sharpness"][0]
    assert measured.sharpness is not None
    assert measured.sharpness == pytest.approx(recorded, rel=0.02)
    assert measured.ceiling == pytest.approx(2 * 1.9 / measured.sharpness)


@pytest.mark.slow
def test_a_group_has_the_numbers_of_each_run_alone():
    configs = [make_config(f"model.depth={depth} activation=tanh") for depth in (2, 5)]

    together = measure_configs(configs)
    alone = [measure_configs([config])[0] for config in configs]

    for one, other in zip(together, alone, strict=True):
        assert one.signal_grad is not None
        assert other.signal_grad is not None
        assert len(one.signal_grad) == len(other.signal_grad)
        np.testing.assert_allclose(one.signal_grad, other.signal_grad, rtol=1e-4)
        assert one.sharpness == pytest.approx(other.sharpness, rel=1e-2)


@pytest.mark.slow
def test_a_network_with_the_same_output_for_all_examples_learns_nothing_but_the_labels():
    dead = make_config("model.depth=16 activation=sigmoid")
    alive = make_config("model.depth=2 activation=tanh")

    of_dead, of_alive = measure_configs([dead, alive])

    assert of_dead.common_decrease == pytest.approx(of_dead.decrease, rel=1e-3)
    assert of_alive.common_decrease != pytest.approx(of_alive.decrease, rel=0.1)
