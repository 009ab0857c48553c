"""Fathom's own network, written as a user would, gets the gauges and the verdict of a run."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import research
from research.diagnosis.verdict import judge
from research.records.runs import Run

from ..builders import make_hparams, make_program_config
from ..training.programs import initial_params, make_data, train

DEPTH = 12
WIDTH = 16
STEPS = 3
RATE = 0.05
CLASSES = 4
GAUGES = (
    "signal_grad",
    "grad_norm",
    "activation_rms",
    "activation_mean",
    "weight_norm",
    "update_norm",
    "update_ratio",
)
SPEC = make_program_config(
    optimizer="gd",
    activation="sigmoid",
    depth=DEPTH,
    width=WIDTH,
    level="full",
    every=1,
)
HPARAMS = make_hparams(SPEC, {"optimizer.learning_rate": RATE})
DATA = make_data(classes=CLASSES)


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, h):
        return nn.Dense(WIDTH)(nn.sigmoid(h))


class LinenNetwork(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Dense(WIDTH, name="embed")(x)
        for index in range(DEPTH):
            h = LinenBlock(name=f"block_{index}")(h)
        return nn.Dense(CLASSES, name="head")(nn.sigmoid(h))


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, h):
        return self.dense(nnx.sigmoid(h))


class NnxNetwork(nnx.Module):
    def __init__(self, inputs, rngs):
        self.embed = nnx.Linear(inputs, WIDTH, rngs=rngs)
        self.blocks = nnx.List([NnxBlock(rngs) for _ in range(DEPTH)])
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x):
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.head(nnx.sigmoid(h))


@pytest.fixture(scope="module")
def params():
    """The initial parameters of the run, in float32."""
    params = initial_params(SPEC, HPARAMS)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


@pytest.fixture(scope="module")
def profile():
    """What a run of Fathom's own program measures, [S, …]."""
    _, rows = train(SPEC, HPARAMS, DATA, chunks=(STEPS,))
    return {name: values[0] for name, values in rows["profile"].items()}


def blocks_of(params):
    (stage,) = params["stages"].values()
    (weights,) = stage["branch"]["weights"].values()
    return [
        {"kernel": k, "bias": b} for k, b in zip(weights["kernel"], weights["bias"], strict=True)
    ]


def cross_entropy(logits):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, DATA["y"])
    return jnp.mean(losses)


def make_linen_step(params):
    network = LinenNetwork()
    watch = research.watch()
    tree = {"embed": params["embed"], "head": params["head"]}
    for index, block in enumerate(blocks_of(params)):
        tree[f"block_{index}"] = {"Dense_0": block}

    def loss(tree):
        return cross_entropy(network.apply({"params": tree}, DATA["x"]))

    @jax.jit
    def step(tree):
        value, grads, gauges = watch.value_and_grad(loss)(tree)
        after = jax.tree.map(lambda leaf, grad: leaf - RATE * grad, tree, grads)
        return after, value, watch.updates(gauges, tree, after)

    state = [tree]

    def run():
        state[0], value, gauges = step(state[0])
        return value, gauges

    return run


def make_nnx_step(params):
    model = NnxNetwork(DATA["x"].shape[1], nnx.Rngs(0))
    watch = research.watch()
    for own, given in [
        (model.embed, params["embed"]),
        (model.head, params["head"]),
        *zip([block.dense for block in model.blocks], blocks_of(params), strict=True),
    ]:
        own.kernel[...] = given["kernel"]
        own.bias[...] = given["bias"]
    optimizer = nnx.Optimizer(model, optax.sgd(RATE), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        before = nnx.clone(nnx.state(model, nnx.Param))
        value, grads, gauges = watch.value_and_grad(lambda net: cross_entropy(net(DATA["x"])))(
            model
        )
        optimizer.update(model, grads)
        return value, watch.updates(gauges, before, nnx.state(model, nnx.Param))

    return lambda: step(model, optimizer)


@pytest.mark.parametrize(
    "make_step",
    [make_linen_step, pytest.param(make_nnx_step, marks=pytest.mark.slow)],
)
def test_a_user_gets_the_gauges_and_the_verdict_of_a_run(make_step, params, profile, tmp_path):
    step = make_step(params)
    with research.Monitor(tmp_path / "run") as monitor:
        for number in range(STEPS):
            loss, gauges = step()
            monitor.log(number, gauges, loss=loss)

    run = Run(tmp_path / "run")
    for name in GAUGES:
        np.testing.assert_allclose(
            run.profiles[name], profile[name], rtol=2e-5, atol=1e-9, err_msg=name
        )
    settings = {"skip.kind": "none", "activation.kind": "sigmoid", "model.depth": DEPTH}
    own = judge(np.arange(STEPS), profile["signal_grad"], settings=settings).as_dict()
    verdict = run.info["verdict"]
    for name in ("kind", "since_step", "first_layer"):
        assert verdict[name] == own[name]
    assert verdict["kind"] == "vanishing"
    assert verdict["factor_per_layer"] == pytest.approx(own["factor_per_layer"], rel=1e-4)
    assert verdict["log10_ratio"] == pytest.approx(own["log10_ratio"], rel=1e-4)
    assert verdict["interval"] == pytest.approx(own["interval"], rel=1e-3)
