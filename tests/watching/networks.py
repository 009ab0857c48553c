"""One residual network in several libraries, and what should be measured in it.

h_0 = x E, h_{l+1} = h_l + tanh(h_l W_l + b_l) / 2, output h_N V, loss mean (output − y)².
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

import research

LAYERS = 4
WIDTH = 8
INPUTS = 5
OUTPUTS = 3
BATCH = 6
GAUGES = ("signal_grad", "activation_rms", "activation_mean", "grad_norm")


class Params(NamedTuple):
    """The parameters of the network, those of the layers on a leading axis."""

    embed: jax.Array
    kernel: jax.Array
    bias: jax.Array
    head: jax.Array


class Batch(NamedTuple):
    x: jax.Array
    y: jax.Array


def make_params(seed=0):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[-2]), jnp.float32)

    return Params(
        embed=draw(INPUTS, WIDTH),
        kernel=draw(LAYERS, WIDTH, WIDTH),
        bias=draw(LAYERS, WIDTH) / 10,
        head=draw(WIDTH, OUTPUTS),
    )


def make_batch(seed=1):
    rng = np.random.default_rng(seed)
    return Batch(
        x=jnp.asarray(rng.normal(size=(BATCH, INPUTS)), jnp.float32),
        y=jnp.asarray(rng.normal(size=(BATCH, OUTPUTS)), jnp.float32),
    )


def layer(h, kernel, bias):
    return h + jnp.tanh(h @ kernel + bias[None]) / 2


def mean_square(outputs, y):
    return jnp.mean((outputs - y) ** 2)


def expected_gauges(params, batch, changed_layer=layer):
    """What each gauge should be, by changes of the signals that are added by hand."""

    def loss(params, changes):
        h = batch.x @ params.embed + changes[0]
        signals = [h]
        for index in range(len(params.kernel)):
            h = changed_layer(h, params.kernel[index], params.bias[index]) + changes[index + 1]
            signals.append(h)
        return mean_square(h @ params.head, batch.y), signals

    num_signals = len(params.kernel) + 1
    changes = [jnp.zeros((len(batch.x), WIDTH))] * num_signals
    (grads, signal_grads), signals = jax.grad(loss, (0, 1), has_aux=True)(params, changes)
    grad_norms = []
    for kernel, bias in zip(grads.kernel, grads.bias, strict=True):
        grad_norms.append(np.hypot(norm(kernel), norm(bias)))
    return {
        "signal_grad": np.array([norm(grad) for grad in signal_grads]),
        "activation_rms": np.array([norm(h) / np.sqrt(h.size) for h in signals]),
        "activation_mean": np.array([np.mean(np.asarray(h, np.float64)) for h in signals]),
        "grad_norm": np.array(grad_norms),
    }


def norm(array):
    return np.linalg.norm(np.asarray(array, np.float64).ravel())


def assert_gauges(gauges, expected, rtol=2e-6, atol=1e-8):
    for name in GAUGES:
        np.testing.assert_allclose(
            np.asarray(gauges[name]), expected[name], rtol=rtol, atol=atol, err_msg=name
        )


# Plain functions


def plain_loss(params, batch):
    h = batch.x @ params.embed
    for index in range(LAYERS):
        kernel = params.kernel[index]
        h = research.tap(layer(h, kernel, params.bias[index]), f"layer/{index}")
    return mean_square(h @ params.head, batch.y)


def scanned_loss(params, batch, policy=None):
    def body(h, weights):
        kernel, bias = weights
        return research.tap(layer(h, kernel, bias), "layers", params=weights), None

    if policy is not None:
        body = jax.checkpoint(body, policy=policy)
    h, _ = lax.scan(body, batch.x @ params.embed, (params.kernel, params.bias))
    return mean_square(h @ params.head, batch.y)


# NNX


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, h):
        return h + jnp.tanh(self.dense(h)) / 2


class NnxNetwork(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Linear(INPUTS, WIDTH, use_bias=False, rngs=rngs)
        self.blocks = nnx.List([NnxBlock(rngs) for _ in range(LAYERS)])
        self.head = nnx.Linear(WIDTH, OUTPUTS, use_bias=False, rngs=rngs)

    def __call__(self, x):
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.head(h)


class NnxScanned(nnx.Module):
    def __init__(self, rngs):
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make_blocks(rngs):
            return NnxBlock(rngs)

        self.embed = nnx.Linear(INPUTS, WIDTH, use_bias=False, rngs=rngs)
        self.blocks = make_blocks(rngs.split(LAYERS))
        self.head = nnx.Linear(WIDTH, OUTPUTS, use_bias=False, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        @nnx.remat
        def run(h, block):
            return block(h)

        return self.head(run(self.embed(x), self.blocks))


def set_dense(dense, kernel, bias):
    dense.kernel[...] = kernel
    dense.bias[...] = bias


def make_nnx(params):
    model = NnxNetwork(nnx.Rngs(0))
    model.embed.kernel[...] = params.embed
    model.head.kernel[...] = params.head
    for index, block in enumerate(model.blocks):
        set_dense(block.dense, params.kernel[index], params.bias[index])
    return model


def make_nnx_scanned(params):
    model = NnxScanned(nnx.Rngs(0))
    model.embed.kernel[...] = params.embed
    model.head.kernel[...] = params.head
    set_dense(model.blocks.dense, params.kernel, params.bias)
    return model


def model_loss(model, batch):
    return mean_square(model(batch.x), batch.y)


# Linen


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, h):
        return h + jnp.tanh(nn.Dense(WIDTH, name="dense")(h)) / 2


class LinenNetwork(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Dense(WIDTH, use_bias=False, name="embed")(x)
        for index in range(LAYERS):
            h = LinenBlock(name=f"block_{index}")(h)
        return nn.Dense(OUTPUTS, use_bias=False, name="head")(h)


class LinenScanned(nn.Module):
    axis: int = 0

    @nn.compact
    def __call__(self, x):
        def body(block, h, _):
            return block(h), None

        scan = nn.scan(
            nn.remat(body),
            variable_axes={"params": self.axis},
            split_rngs={"params": True},
            length=LAYERS,
        )
        h = nn.Dense(WIDTH, use_bias=False, name="embed")(x)
        h, _ = scan(LinenBlock(name="blocks"), h, None)
        return nn.Dense(OUTPUTS, use_bias=False, name="head")(h)


def linen_params(params):
    tree = {"embed": {"kernel": params.embed}, "head": {"kernel": params.head}}
    for index in range(LAYERS):
        dense = {"kernel": params.kernel[index], "bias": params.bias[index]}
        tree[f"block_{index}"] = {"dense": dense}
    return tree


def linen_scanned_params(params, axis=0):
    dense = {
        "kernel": jnp.moveaxis(params.kernel, 0, axis),
        "bias": jnp.moveaxis(params.bias, 0, axis),
    }
    return {
        "embed": {"kernel": params.embed},
        "blocks": {"dense": dense},
        "head": {"kernel": params.head},
    }


def linen_loss(network):
    def loss(tree, batch):
        return mean_square(network.apply({"params": tree}, batch.x), batch.y)

    return loss
