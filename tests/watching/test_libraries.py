"""The network in Equinox and in Haiku, where they are installed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import research
from research.records.runs import Run

from ..docs_blocks import BLOCKS
from . import networks
from .networks import assert_gauges, expected_gauges

PARAMS = networks.make_params()
BATCH = networks.make_batch()


@pytest.fixture(scope="module")
def expected():
    return expected_gauges(PARAMS, BATCH)


def make_equinox(eqx, in_scan):
    """The network as an Equinox module: its layers in a list, or stacked and in a scan."""

    class Block(eqx.Module):
        kernel: jax.Array
        bias: jax.Array

        def __call__(self, h):
            return h + jnp.tanh(h @ self.kernel + self.bias) / 2

    class Network(eqx.Module):
        embed: jax.Array
        blocks: Any
        head: jax.Array

        def __call__(self, x):
            h = x @ self.embed
            if not in_scan:
                for block in self.blocks:
                    h = block(h)
                return h @ self.head
            h, _ = lax.scan(lambda h, block: (block(h), None), h, self.blocks)
            return h @ self.head

    blocks = Block(PARAMS.kernel, PARAMS.bias)
    if not in_scan:
        blocks = [Block(PARAMS.kernel[n], PARAMS.bias[n]) for n in range(networks.LAYERS)]
    return Network(PARAMS.embed, blocks, PARAMS.head)


@pytest.mark.parametrize("in_scan", [False, True])
def test_equinox_modules_are_measured(in_scan, expected):
    eqx = pytest.importorskip("equinox")
    model = make_equinox(eqx, in_scan)

    def loss(model, batch):
        return networks.mean_square(jax.vmap(model)(batch.x), batch.y)

    watch = research.watch()
    value, grads, gauges = eqx.filter_jit(watch.value_and_grad(loss))(model, BATCH)

    assert_gauges(gauges, expected)
    plain_value, plain_grads = eqx.filter_value_and_grad(loss)(model, BATCH)
    np.testing.assert_allclose(value, plain_value, rtol=1e-6)
    assert jax.tree.structure(grads) == jax.tree.structure(plain_grads)
    name = "blocks[0]" if in_scan else "blocks/0"
    assert gauges.table.names[0] == name


def test_updates_of_an_equinox_model_leave_out_its_settings():
    eqx = pytest.importorskip("equinox")

    class Block(eqx.Module):
        rate: float
        kernel: jax.Array
        activation: Any

        def __call__(self, h):
            return self.activation(h @ self.kernel) * (1 - self.rate)

    class Network(eqx.Module):
        rate: float
        blocks: list

        def __call__(self, h):
            for block in self.blocks:
                h = block(h)
            return h * self.rate

    eye = jnp.eye(networks.INPUTS)
    before = Network(0.5, [Block(0.1, n * eye, jnp.tanh) for n in (1.0, 2.0)])
    after = jax.tree.map(lambda leaf: 1.5 * leaf if eqx.is_array(leaf) else leaf, before)
    watch = research.watch()

    _, _, gauges = watch.value_and_grad(lambda model: jnp.mean(model(BATCH.x) ** 2))(before)
    gauges = watch.updates(gauges, before, after)

    assert gauges is not None
    root = networks.INPUTS**0.5
    np.testing.assert_allclose(gauges["weight_norm"], [root, 2 * root], rtol=1e-6)
    np.testing.assert_allclose(gauges["update_norm"], [root / 2, root], rtol=1e-6)


def test_haiku_modules_are_measured(expected):
    hk = pytest.importorskip("haiku")

    class Block(hk.Module):
        def __call__(self, h):
            return h + jnp.tanh(hk.Linear(networks.WIDTH, name="dense")(h)) / 2

    def forward(x):
        h = hk.Linear(networks.WIDTH, with_bias=False, name="embed")(x)
        for _ in range(networks.LAYERS):
            h = Block(name="block")(h)
        return hk.Linear(networks.OUTPUTS, with_bias=False, name="head")(h)

    network = hk.without_apply_rng(hk.transform(forward))
    tree = {"embed": {"w": PARAMS.embed}, "head": {"w": PARAMS.head}}
    for n in range(networks.LAYERS):
        name = f"block_{n}" if n else "block"
        tree[f"{name}/dense"] = {"w": PARAMS.kernel[n], "b": PARAMS.bias[n]}

    def loss(tree, batch):
        return networks.mean_square(network.apply(tree, batch.x), batch.y)

    _, _, gauges = jax.jit(research.watch().value_and_grad(loss))(tree, BATCH)

    assert_gauges(gauges, expected)


@pytest.mark.slow
def test_the_loop_of_the_guide_runs(workplace):
    pytest.importorskip("equinox")
    (block,) = [block for block in BLOCKS if block.title == "equinox_loop.py"]

    exec(compile(block.text, block.title, "exec"), {})

    assert Run(workplace / "outputs" / "mine" / "equinox").status == "done"
