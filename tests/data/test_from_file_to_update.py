"""Arrays from a file to the weights after a step, computed again in NumPy."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from research.cli.main import run as run_command
from research.records.runs import find_runs

RNG = np.random.default_rng(0)
INPUTS = 5
WIDTH = 4
CLASSES = 3
X = RNG.normal(size=(40, INPUTS)) * [3, 1, 2, 1, 5] + 7
Y = np.arange(40) % CLASSES
X_TEST = RNG.normal(size=(11, INPUTS)) * 2 + 7
Y_TEST = np.arange(11) % CLASSES
SMOOTHING = 0.2
DECAY = 0.1
RATE = 0.1
THRESHOLD = 0.05
COMMAND = [
    "data=arrays",
    "data.path=mine.npz",
    "model.depth=2",
    f"model.width={WIDTH}",
    "activation=tanh",
    "init.sigma_b=0.3",
    "precision=float64",
    "optimizer=gd",
    f"optimizer.learning_rate={RATE}",
    f"optimizer.weight_decay={DECAY}",
    "optimizer.clip=global_norm",
    f"optimizer.clip_threshold={THRESHOLD}",
    f"loss.label_smoothing={SMOOTHING}",
    "measure=full",
    "measure.every=1",
    "measure.inspect=[parameters]",
    "measure.inspect_every=1",
    "train.steps=3",
    "train.eval_every=1",
    "tracker=none",
    "name=oracle",
]
SHAPES = {  # of the parameters, in the order of their paths
    "embed_bias": (WIDTH,),
    "embed": (INPUTS, WIDTH),
    "head_bias": (CLASSES,),
    "head": (WIDTH, CLASSES),
    "bias": (2, WIDTH),
    "kernel": (2, WIDTH, WIDTH),
}


def split(flat):
    parameters = {}
    start = 0
    for name, shape in SHAPES.items():
        end = start + int(np.prod(shape))
        parameters[name] = flat[start:end].reshape(shape)
        start = end
    assert start == len(flat)
    return parameters


def signals(parameters, x):
    h = x @ parameters["embed"] + parameters["embed_bias"]
    found = [h]
    for layer in range(2):
        h = np.tanh(h) @ parameters["kernel"][layer] + parameters["bias"][layer]
        found.append(h)
    return found


def loss_and_error(parameters, x, y, smoothing):
    """The mean loss, and its gradient with respect to the outputs."""
    outputs = np.tanh(signals(parameters, x)[-1]) @ parameters["head"] + parameters["head_bias"]
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    targets = (1 - smoothing) * np.eye(CLASSES)[y] + smoothing / CLASSES
    loss = -(targets * logarithms).sum(axis=1).mean()
    return loss, (np.exp(logarithms) - targets) / len(x)


def gradient(parameters, x, y):
    h = signals(parameters, x)
    _, error = loss_and_error(parameters, x, y, SMOOTHING)
    found = {"head": np.tanh(h[-1]).T @ error, "head_bias": error.sum(axis=0)}
    back = (error @ parameters["head"].T) * (1 - np.tanh(h[-1]) ** 2)
    kernels = []
    biases = []
    for layer in (1, 0):
        kernels.insert(0, np.tanh(h[layer]).T @ back)
        biases.insert(0, back.sum(axis=0))
        back = (back @ parameters["kernel"][layer].T) * (1 - np.tanh(h[layer]) ** 2)
    found |= {"kernel": np.stack(kernels), "bias": np.stack(biases)}
    found |= {"embed": x.T @ back, "embed_bias": back.sum(axis=0)}
    return found


def layer_norms(tree):
    squares = (tree["kernel"] ** 2).sum(axis=(1, 2)) + (tree["bias"] ** 2).sum(axis=1)
    return np.sqrt(squares)


def flatten(tree):
    return np.concatenate([tree[name].ravel() for name in SHAPES])


@pytest.mark.slow
def test_every_number_of_a_step_is_that_of_the_arrays(workplace):
    np.savez(workplace / "mine.npz", x=X, y=Y, x_test=X_TEST, y_test=Y_TEST)

    assert not run_command(["train", *COMMAND])

    [run] = find_runs(Path("outputs/oracle"))
    inputs = (X - X.mean()) / X.std()
    eval_inputs = (X_TEST - X.mean()) / X.std()
    points = list(run.inspections["parameters"])
    for step, flat in enumerate(points):
        parameters = split(np.asarray(flat))
        grads = gradient(parameters, inputs, Y)
        norm = np.linalg.norm(flatten(grads))
        loss, _ = loss_and_error(parameters, inputs, Y, SMOOTHING)
        h = signals(parameters, inputs)
        slopes = 1 - np.tanh(h[0]) ** 2
        measured = {name: values[step] for name, values in run.profiles.items()}
        assert_allclose(run.metrics["train_loss"][step], loss, rtol=1e-13)
        assert_allclose(run.metrics["grad_norm"][step], norm, rtol=1e-13)
        assert_allclose(measured["grad_norm"], layer_norms(grads), rtol=1e-13)
        assert_allclose(measured["weight_norm"], layer_norms(parameters), rtol=1e-13)
        assert_allclose(measured["activation_rms"], [np.sqrt((s**2).mean()) for s in h])
        assert_allclose(measured["activation_mean"], [s.mean() for s in h], atol=1e-14)
        assert_allclose(measured["saturated"][0], (slopes < 0.05).mean())
        if step + 1 < len(points):
            clipped = flatten(grads) * min(1, THRESHOLD / norm)
            after = flat - RATE * (clipped + DECAY * flat)
            eval_loss, _ = loss_and_error(split(points[step + 1]), eval_inputs, Y_TEST, 0)
            change = layer_norms(split(after - flat))
            assert_allclose(points[step + 1], after, rtol=1e-13)
            assert_allclose(run.metrics["eval_loss"][step], eval_loss, rtol=1e-13)
            assert_allclose(measured["update_norm"], change, rtol=1e-10)
            assert_allclose(measured["update_ratio"], change / layer_norms(parameters), rtol=1e-10)


@pytest.mark.slow
def test_data_that_changed_after_a_run_are_said_and_only_those(workplace, capsys):
    command = ["train", "data=arrays", "data.path=mine.npz", "model.depth=2", "model.width=4"]
    command += ["train.steps=2", "train.batch_size=8", "tracker=none", "name=changed"]
    np.savez(workplace / "mine.npz", x=X, y=Y)
    assert not run_command(command)
    os.utime("mine.npz", ns=(1, 1))
    assert not run_command(command)
    assert "the data have changed" not in capsys.readouterr().err
    np.savez(workplace / "mine.npz", x=X + Y[:, None], y=Y)
    assert not run_command(command)
    assert "the data have changed since this run has finished" in capsys.readouterr().err
