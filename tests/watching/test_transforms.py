"""What users do with a loss: remat, sharding, other axes, donated buffers, two stacks."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import research

from . import networks
from .networks import assert_gauges, expected_gauges

PARAMS = networks.make_params()
BATCH = networks.make_batch()
POLICIES = jax.checkpoint_policies


@pytest.fixture(scope="module")
def expected():
    return expected_gauges(PARAMS, BATCH)


def without_input(expected):
    changed = dict(expected)
    for name in ("signal_grad", "activation_rms", "activation_mean"):
        changed[name] = np.array([np.nan, *expected[name][1:]])
    return changed


def measure(loss, params: Any = PARAMS, batch: Any = BATCH):
    _, grads, gauges = jax.jit(research.watch().value_and_grad(loss))(params, batch)
    return grads, gauges


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy",
    [
        POLICIES.nothing_saveable,
        POLICIES.dots_saveable,
        POLICIES.save_only_these_names("h"),
    ],
)
def test_remat_with_any_policy(policy, expected):
    loss = functools.partial(networks.scanned_loss, policy=policy)

    _, gauges = measure(loss)

    assert_gauges(gauges, without_input(expected))


@pytest.mark.slow
def test_a_scan_along_another_axis(expected):
    loss = networks.linen_loss(networks.LinenScanned(axis=1))

    _, gauges = measure(loss, networks.linen_scanned_params(PARAMS, axis=1))

    assert_gauges(gauges, expected)


@pytest.mark.slow
def test_a_scan_along_the_last_axis_of_a_plain_function(expected):
    def loss(params, batch):
        weights = (jnp.moveaxis(params.kernel, -1, 0), jnp.moveaxis(params.bias, -1, 0))
        moved = params._replace(kernel=weights[0], bias=weights[1])
        return networks.scanned_loss(moved, batch)

    last = PARAMS._replace(
        kernel=jnp.moveaxis(PARAMS.kernel, 0, -1), bias=jnp.moveaxis(PARAMS.bias, 0, -1)
    )

    _, gauges = measure(loss, last)

    assert_gauges(gauges, without_input(expected))


@pytest.fixture(scope="module")
def mesh():
    kinds = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((2,), ("devices",), axis_types=kinds)


@pytest.mark.slow
def test_a_batch_that_shard_map_splits(mesh, expected):
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), P("devices")),
        out_specs=P(),
    )
    def loss(params, batch):
        return lax.pmean(networks.scanned_loss(params, batch), "devices")

    _, gauges = measure(loss)

    assert_gauges(gauges, without_input(expected), rtol=5e-6)


@pytest.mark.slow
@pytest.mark.parametrize("number", [2.0, np.nan])
def test_the_largest_input_is_that_of_all_devices(mesh, number):
    batch = networks.make_batch()
    batch = batch._replace(x=batch.x.at[-1, -1].set(-number))

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), P("devices")),
        out_specs=P(),
    )
    def largest_input(params, batch):
        def loss(params, batch):
            return lax.pmean(networks.scanned_loss(params, batch), "devices")

        _, _, gauges = research.watch().value_and_grad(loss)(params, batch)
        return gauges.largest_input

    largest = [np.abs(leaf).max() for leaf in batch]
    got = largest_input(networks.make_params(), batch)
    np.testing.assert_array_equal(got, np.inf if np.isnan(number) else np.max(largest))


@pytest.mark.slow
def test_a_layer_that_shard_map_splits(mesh, expected):
    def tensor_parallel(h, kernel, bias):
        rows = kernel.shape[0]
        part = lax.dynamic_slice_in_dim(h, lax.axis_index("devices") * rows, rows, axis=1)
        z = lax.psum(part @ kernel, "devices") + bias[None]
        return h + jnp.tanh(z) / 2

    whole: Any = P()
    rows: Any = P(None, "devices")
    specs = networks.Params(whole, rows, whole, whole)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(specs, P()), out_specs=P())
    def loss(params, batch):
        h = batch.x @ params.embed
        for n in range(networks.LAYERS):
            weights = (params.kernel[n], params.bias[n])
            h = research.tap(tensor_parallel(h, *weights), f"layer/{n}")
        return networks.mean_square(h @ params.head, batch.y)

    _, gauges = measure(loss)

    for name in ("signal_grad", "activation_rms", "activation_mean"):
        np.testing.assert_allclose(gauges[name][1:], expected[name][1:], rtol=5e-6, atol=1e-7)


@pytest.mark.slow
def test_a_batch_that_jit_splits(mesh, expected):
    batch = jax.device_put(BATCH, NamedSharding(mesh, P("devices")))

    _, gauges = measure(networks.scanned_loss, batch=batch)

    assert_gauges(gauges, without_input(expected), rtol=5e-6)


def test_a_shard_map_without_checks_is_not_measured(mesh):
    def loss(params, batch):
        run = jax.shard_map(
            networks.scanned_loss, mesh=mesh, in_specs=(P(), P()), out_specs=P(), check_vma=False
        )
        return run(params, batch)

    with pytest.raises(ValueError, match="layers is inside a shard_map with check_vma=False"):
        research.watch().layers(loss, PARAMS, BATCH)


@pytest.mark.slow
def test_buffers_may_be_donated(expected):
    watch = research.watch()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(params):
        _, grads, gauges = watch.value_and_grad(networks.scanned_loss)(params, BATCH)
        return jax.tree.map(lambda leaf, grad: leaf - 0 * grad, params, grads), gauges

    params = jax.tree.map(jnp.copy, PARAMS)
    for _ in range(2):
        params, gauges = step(params)

    assert_gauges(gauges, without_input(expected))


@pytest.mark.slow
def test_float64_agrees_to_twelve_digits():
    with jax.enable_x64(True):
        params, batch = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (PARAMS, BATCH))
        expected = expected_gauges(params, batch)
        _, gauges = measure(networks.scanned_loss, params, batch)
        assert_gauges(gauges, without_input(expected), rtol=1e-12, atol=1e-14)


class Coder(nn.Module):
    depth: int

    @nn.compact
    def __call__(self, h):
        for index in range(self.depth):
            h = networks.LinenBlock(name=f"block_{index}")(h)
        return h


class EncoderDecoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Dense(networks.WIDTH, name="embed")(x)
        h = Coder(3, name="encoder")(h)
        h = Coder(4, name="decoder")(1e-4 * h)
        return nn.Dense(networks.OUTPUTS, name="head")(h)


@pytest.mark.slow
def test_encoder_and_decoder_are_judged_apart(tmp_path):
    network = EncoderDecoder()
    params = network.init(jax.random.key(0), BATCH.x)["params"]

    with research.Monitor(tmp_path / "run") as monitor:
        _, gauges = measure(networks.linen_loss(network), params)
        monitor.log(0, gauges)
        verdict = monitor.verdict()
        assert verdict is not None

    assert [name.split("/")[0] for name in gauges.table.names] == 3 * ["encoder"] + 4 * ["decoder"]
    assert {name.split("/")[0] for name in verdict.by_stack} == {"encoder", "decoder"}
    assert {one.kind for one in verdict.by_stack.values()} == {"healthy"}
