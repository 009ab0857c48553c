"""What our step is compared with does the same work."""

import functools
import importlib.util

import jax
import numpy as np
import pytest

from research.benchmark import watching
from research.benchmark.device_rows import QUICK
from research.benchmark.diagnostics import network_of
from research.benchmark.processes import WITHOUT_TRACKERS, wandb_overrides
from research.benchmark.rows import ROWS
from research.benchmark.steps import MatrixProducts, StepTimer, compose_config
from research.benchmark.table import MeasuredRow, format_cells
from research.benchmark.timing import Measurement
from research.config.options import INSPECTIONS


def test_the_matrix_products_are_those_of_the_network():
    products = MatrixProducts(5, 8, 3, depth=2, batch=4)
    products.time()
    shapes = [layer.weights.shape for layer in products.layers]
    assert shapes == [(5, 8), (8, 8), (8, 8), (8, 3)]
    assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    for number, layer in enumerate(products.layers):
        outputs = layer.inputs @ layer.weights
        weight_grad = layer.inputs.T @ layer.output_grad
        input_grad = layer.output_grad @ layer.weights.T
        assert_close(layer.outputs, outputs)
        assert_close(layer.weight_grad, weight_grad)
        if number > 0:
            assert_close(layer.input_grad, input_grad)


@pytest.mark.parametrize("name", INSPECTIONS)
def test_every_diagnostic_has_a_network_that_it_can_be_measured_on(name):
    config = compose_config(*network_of(name), f"measure.inspect=[{name}]")
    assert config.measure.inspect == (name,)
    assert ROWS[f"inspect_{name}"].bound == ""


def report_progress(done, total):
    pass


def test_without_pytorch_its_rows_say_how_to_install_it_and_do_not_fail(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    row = ROWS["torch"]
    measurement = row.measure(report_progress)
    assert measurement == Measurement(None, "not measured: pip install 'fathom-gradients[bench]'")
    _, _, value, budget, verdict, _ = format_cells(MeasuredRow(row, measurement))
    assert value == "–"
    assert budget == "≥ 6.00×"
    assert verdict == "–"


# The biases are not zero, so that the test notices one that is missing in a copy or in a norm.
SMALL_MLP = (
    "data=noise",
    "model.depth=4",
    "model.width=16",
    "init=gaussian",
    "init.sigma_w=1.4",
    "init.sigma_b=0.3",
)
SMALL_RESNET = (
    "model=resnet_cifar",
    "model.depth=14",
    "model.width=4",
    "data=noise",
    "data.shape=[9,9,2]",
)
SMALL_TRANSFORMER = (
    "model=transformer",
    "model.depth=2",
    "model.width=16",
    "data=noise",
    "data.shape=[6,5]",
    "init=gaussian",
    "init.sigma_w=1.4",
    "init.sigma_b=0.3",
)
STYLES = ["hooks", "tuned"]


@pytest.mark.parametrize("style", STYLES)
def test_pytorch_and_fathom_measure_the_same_numbers_from_the_same_weights(style):
    pytest.importorskip("torch")
    from research.benchmark.torch_steps import disagreement

    assert disagreement(style, *SMALL_MLP) < 1e-4


@pytest.mark.parametrize("style", STYLES)
def test_pytorch_and_fathom_measure_the_same_numbers_of_a_residual_network(style):
    pytest.importorskip("torch")
    from research.benchmark.torch_steps import disagreement

    assert disagreement(style, *SMALL_RESNET) < 1e-3  # batch norm divides by small deviations


@pytest.mark.parametrize("style", STYLES)
def test_pytorch_and_fathom_measure_the_same_numbers_of_a_transformer(style):
    pytest.importorskip("torch")
    from research.benchmark.torch_steps import disagreement

    assert disagreement(style, *SMALL_TRANSFORMER) < 1e-4


@pytest.mark.parametrize("network", [SMALL_MLP, SMALL_TRANSFORMER], ids=["sgd", "adamw"])
@pytest.mark.parametrize("style", STYLES)
def test_pytorch_trains_as_fathom_does(style, network):
    pytest.importorskip("torch")
    from research.benchmark.torch_steps import TorchStepTimer

    ours = StepTimer(*network, "measure=norms", "train.batch_size=128", "data.limit=128")
    _, metrics = ours.train(ours.initial_state(), 8)
    torch_timer = TorchStepTimer(ours.setup, ours.initial_state().params, style=style)
    trainer = torch_timer.make_trainer()
    for _ in range(8):  # the training set is one batch, whose order does not matter
        trainer.step(torch_timer.x, torch_timer.y)
    last_step = trainer.last_step()
    our_loss = float(metrics["train_loss"][0, 7])
    our_signal = metrics["profile"]["signal_grad"][0, 7]
    assert last_step["train_loss"] == pytest.approx(our_loss, rel=1e-4)
    np.testing.assert_allclose(last_step["signal_grad"], our_signal, rtol=1e-3)


@pytest.mark.slow
def test_the_own_step_that_measures_trains_as_the_one_that_does_not():
    case = QUICK.watched_mlp
    measured = watching.OwnStep(case, measure=True)
    plain = watching.OwnStep(case, measure=False)

    state, _, gauges = measured.compile()(measured.state, measured.x)
    expected, _, nothing = plain.compile()(plain.state, plain.x)

    assert nothing is None
    assert gauges["grad_norm"].shape == (2,)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), state, expected)


def test_the_runs_with_and_without_wandb_are_configurations(tmp_path):
    recorded = compose_config(*wandb_overrides(str(tmp_path)))
    assert recorded.tracker.wandb
    assert not compose_config(*WITHOUT_TRACKERS).tracker.wandb
