"""Gauges of other people's models agree with gradients of changes that are added by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import Primitive

import research
from research.theory.formats import BINS, LOWEST
from research.watching.slots import WIDTH, read_statistics
from research.watching.slots import measure as measure_signal

from . import networks
from .networks import assert_gauges, expected_gauges

PARAMS = networks.make_params()
BATCH = networks.make_batch()


@pytest.fixture(scope="module")
def expected():
    return expected_gauges(PARAMS, BATCH)


def measure(loss, params, watch=None, **options):
    step = (watch or research.watch()).value_and_grad(loss, **options)
    return jax.jit(step)(params, BATCH)


def without_input(expected):
    """The expected gauges where the input of the first layer is not measured."""
    changed = dict(expected)
    for name in ("signal_grad", "activation_rms", "activation_mean"):
        changed[name] = np.array([np.nan, *expected[name][1:]])
    return changed


def linen_case(network, params):
    return networks.linen_loss(network), params


CASES = {
    "linen": linen_case(networks.LinenNetwork(), networks.linen_params(PARAMS)),
    "linen scan": linen_case(networks.LinenScanned(), networks.linen_scanned_params(PARAMS)),
}


@pytest.mark.parametrize("name", CASES)
def test_linen_modules_are_measured(name, expected):
    loss, params = CASES[name]

    value, grads, gauges = measure(loss, params)

    assert_gauges(gauges, expected)
    plain_value, plain_grads = jax.jit(jax.value_and_grad(loss))(params, BATCH)
    np.testing.assert_allclose(value, plain_value, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), grads, plain_grads
    )


@pytest.mark.parametrize(
    "make",
    [networks.make_nnx, pytest.param(networks.make_nnx_scanned, marks=pytest.mark.slow)],
)
def test_nnx_modules_are_measured(make, expected):
    model = make(PARAMS)

    @nnx.jit
    def step(model, batch):
        return research.watch().value_and_grad(networks.model_loss)(model, batch)

    value, grads, gauges = step(model, BATCH)

    assert_gauges(gauges, expected)
    plain_value, plain_grads = nnx.value_and_grad(networks.model_loss)(model, BATCH)
    np.testing.assert_allclose(value, plain_value, rtol=1e-6)
    assert jax.tree.structure(grads) == jax.tree.structure(plain_grads)


def test_taps_in_a_loop_and_in_a_scan_are_measured(expected):
    _, _, in_loop = measure(networks.plain_loss, PARAMS)
    _, _, in_scan = measure(networks.scanned_loss, PARAMS)

    assert_gauges(in_scan, without_input(expected))
    np.testing.assert_allclose(in_loop["signal_grad"], in_scan["signal_grad"], rtol=2e-6)
    assert in_loop.table.names == [f"layer/{n}" for n in range(4)]
    assert in_scan.table.names == [f"layers[{n}]" for n in range(4)]


def test_each_step_of_a_recurrent_network_is_measured_where_the_tap_says_so():
    same = np.zeros(networks.LAYERS, int)
    repeated = PARAMS._replace(kernel=PARAMS.kernel[same], bias=PARAMS.bias[same])
    expected = expected_gauges(repeated, BATCH)

    def loss(params, batch, per_iteration):
        def step(h, _):
            h = networks.layer(h, params.kernel[0], params.bias[0])
            return research.tap(h, "state", per_iteration=per_iteration), None

        h, _ = jax.lax.scan(step, batch.x @ params.embed, None, length=networks.LAYERS)
        return networks.mean_square(h @ params.head, batch.y)

    _, _, apart = measure(functools.partial(loss, per_iteration=True), PARAMS)

    assert apart.table.names == [f"state[{n}]" for n in range(networks.LAYERS)]
    assert apart.table.layers[0].note == (
        "no grad_norm: its parameters are shared by all iterations"
    )
    first, last = apart.table.names[0], apart.table.names[-1]
    assert f"0–{networks.LAYERS - 1}  {first} … {last}  tap" in str(apart.table)
    for name in ("signal_grad", "activation_rms"):
        np.testing.assert_allclose(apart[name][1:], expected[name][1:], rtol=2e-6)
    layers = research.watch().layers(functools.partial(loss, per_iteration=False), PARAMS, BATCH)
    assert layers.names == ["state"]
    assert "per_iteration=True" in layers.layers[0].note
    assert layers.layers[0].summed_iterations == networks.LAYERS
    assert all(layer.is_iteration for layer in apart.table.layers)


def test_a_step_that_does_not_measure_is_the_step_of_jax():
    watch = research.watch()
    step = watch.value_and_grad(networks.scanned_loss, measure=False)

    measured = jax.make_jaxpr(step)(PARAMS, BATCH)
    plain = jax.make_jaxpr(jax.value_and_grad(networks.scanned_loss))(PARAMS, BATCH)

    assert str(measured) == str(plain)
    assert step(PARAMS, BATCH)[2] is None


@pytest.mark.slow
def test_bfloat16_with_a_loss_scale_that_is_divided_out(expected):
    scale = 1024.0

    def loss(params, batch):
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, batch))
        return scale * networks.scanned_loss(*half).astype(jnp.float32)

    _, grads, gauges = measure(loss, PARAMS, loss_scale=scale)

    assert_gauges(gauges, without_input(expected), rtol=0.05, atol=0.01)
    assert networks.norm(grads.head) > 100 * expected["grad_norm"].max()


def test_norms_far_outside_the_range_of_squares_are_right(expected):
    tiny = 1e-30

    _, _, gauges = measure(
        lambda params, batch: tiny * networks.scanned_loss(params, batch), PARAMS
    )

    scaled = tiny * without_input(expected)["signal_grad"]
    np.testing.assert_allclose(gauges["signal_grad"], scaled, rtol=1e-5)
    np.testing.assert_allclose(gauges["grad_norm"], tiny * expected["grad_norm"], rtol=1e-5)


@pytest.mark.slow
def test_microbatches_inside_and_outside_the_loss_give_the_gauges_of_the_batch(expected):
    watch = research.watch()
    parts = jax.tree.map(lambda leaf: leaf.reshape(3, 2, -1), BATCH)

    def accumulated_loss(params, batch):
        del batch

        def add(total, part):
            return total + networks.scanned_loss(params, part) / 3, None

        return jax.lax.scan(add, 0.0, parts)[0]

    @jax.jit
    def outside(params):
        def add(total, part):
            _, grads, gauges = watch.value_and_grad(networks.scanned_loss)(params, part)
            return jax.tree.map(lambda a, b: a + b / 3, total, grads), gauges

        total, gauges = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
        return watch.merge(gauges, total)

    _, _, inside = measure(accumulated_loss, PARAMS, watch)

    assert_gauges(inside, without_input(expected), rtol=5e-6)
    assert_gauges(outside(PARAMS), without_input(expected), rtol=5e-6)
    assert "3 iterations" in inside.table.layers[0].note
    assert inside.table.layers[0].summed_iterations == 1  # microbatches hand nothing on


def test_updates_are_measured_as_they_are_stored():
    watch = research.watch()

    @jax.jit
    def step(params):
        _, grads, gauges = watch.value_and_grad(networks.scanned_loss)(params, BATCH)
        after = jax.tree.map(lambda leaf, grad: leaf - 0.1 * grad, params, grads)
        return watch.updates(gauges, params, after)

    gauges = step(PARAMS)

    np.testing.assert_allclose(gauges["update_norm"], 0.1 * gauges["grad_norm"], rtol=1e-3)
    weights = []
    for kernel, bias in zip(PARAMS.kernel, PARAMS.bias, strict=True):
        weights.append(np.hypot(networks.norm(kernel), networks.norm(bias)))
    np.testing.assert_allclose(gauges["weight_norm"], weights, rtol=1e-6)
    np.testing.assert_allclose(
        gauges["update_ratio"], gauges["update_norm"] / gauges["weight_norm"], rtol=1e-6
    )


def test_updates_of_a_python_float_are_measured():
    """JAX differentiates a parameter that is a Python float."""
    watch = research.watch()

    def loss(params, x):
        for number, scale in enumerate(params):
            x = research.tap(scale * x, f"layer/{number}", params=scale)
        return jnp.mean(x**2)

    before = [0.5, 2.0]
    _, _, gauges = watch.value_and_grad(loss)(before, jnp.ones(3))
    gauges = watch.updates(gauges, before, [jnp.float32(0.75), jnp.float32(1.0)])

    assert gauges is not None
    np.testing.assert_allclose(gauges["weight_norm"], [0.5, 2.0])
    np.testing.assert_allclose(gauges["update_norm"], [0.25, 1.0])


def test_exponents_of_the_gradient_are_counted_from_its_bits():
    watch = research.watch()
    # Half of the layer's bias is subnormal, zero or infinite in float16.
    special = jnp.array([2.0**-20, -(2.0**-24), 0, jnp.inf, 1, -2, 3, 0.25], jnp.float16)

    @jax.jit
    def step(params):
        _, grads, gauges = watch.value_and_grad(networks.scanned_loss)(params, BATCH)
        grads = grads._replace(
            kernel=jnp.ones_like(grads.kernel),
            bias=jnp.tile(special, (networks.LAYERS, 1)),
        )
        return watch.exponents(gauges, grads)

    gauges = step(PARAMS)

    num_elements = networks.WIDTH**2 + networks.WIDTH
    np.testing.assert_allclose(gauges["grad_zero"], 1 / num_elements, rtol=1e-6)
    np.testing.assert_allclose(gauges["grad_subnormal"], 2 / num_elements, rtol=1e-6)
    np.testing.assert_allclose(gauges["grad_nonfinite"], 1 / num_elements, rtol=1e-6)
    expected = np.zeros(BINS)
    for exponent, count in {-24: 1, -20: 1, -2: 1, 0: networks.WIDTH**2 + 1, 1: 2}.items():
        expected[exponent - LOWEST] = count / num_elements
    np.testing.assert_allclose(
        gauges["grad_exponent"], np.tile(expected, (networks.LAYERS, 1)), rtol=1e-6
    )


@pytest.mark.parametrize("size", [2e38, 2e-38])
def test_the_root_mean_square_of_a_signal_is_right_at_the_ends_of_the_range(size):
    h = jnp.full(4096, size, jnp.float32)
    slot = jnp.zeros(WIDTH)

    rows = jax.grad(lambda slot: jnp.sum(1e-38 * measure_signal(h, slot)))(slot)

    np.testing.assert_allclose(read_statistics(rows).activation_rms, h[0], rtol=1e-6)


def test_shared_parameters_count_once_and_repeated_calls_are_layers():
    def loss(params, batch):
        h = batch.x @ params.embed
        for _ in range(3):
            weights = (params.kernel[0], params.bias[0])
            h = research.tap(networks.layer(h, *weights), "layer", params=params.kernel)
        return networks.mean_square(h @ params.head, batch.y)

    _, grads, gauges = measure(loss, PARAMS)

    assert gauges.table.names == ["layer", "layer#1", "layer#2"]
    np.testing.assert_allclose(gauges["grad_norm"][0], networks.norm(grads.kernel), rtol=1e-6)
    assert np.isnan(gauges["grad_norm"][1:]).all()
    assert "shared with layer" in gauges.table.layers[1].note


def test_a_layer_that_does_not_reach_the_loss_is_left_out_and_named():
    def loss(params, batch):
        research.tap(batch.x @ params.embed * 2, "unused")
        return networks.plain_loss(params, batch)

    table = research.watch().layers(loss, PARAMS, BATCH)

    assert table.names == [f"layer/{n}" for n in range(4)]
    assert "not measured: unused does not reach the loss" in str(table)


def test_a_layer_inside_a_custom_vjp_is_named():
    @jax.custom_vjp
    def double(h):
        return research.tap(2 * h, "double")

    double.defvjp(lambda h: (double(h), None), lambda _, g: (2 * g,))

    def loss(params, batch):
        return jnp.sum(double(batch.x @ params.embed))

    with pytest.raises(ValueError, match="double is inside a custom_vjp"):
        research.watch().layers(loss, PARAMS, BATCH)


def test_an_equation_that_is_not_known_is_named_and_not_measured():
    unknown = Primitive("scan3")
    unknown.def_abstract_eval(lambda h, jaxpr: jaxpr.out_avals[0])

    def loss(params, batch):
        h = batch.x @ params.embed
        body = jax.make_jaxpr(lambda h: research.tap(2 * h, "layers"))(h)
        return jnp.sum(unknown.bind(h, jaxpr=body))

    with pytest.raises(ValueError, match=r"layers .* inside a scan3, which Fathom does not know"):
        research.watch().layers(loss, PARAMS, BATCH)


@pytest.mark.slow
def test_gradients_with_respect_to_some_parameters_only():
    params = networks.linen_params(PARAMS)
    frozen = {name: params[name] for name in ("embed", "block_0", "block_1")}
    trained = {name: params[name] for name in ("block_2", "block_3", "head")}
    loss = networks.linen_loss(networks.LinenNetwork())

    def partial_loss(trained, batch):
        return loss({**frozen, **trained}, batch)

    _, grads, gauges = measure(partial_loss, trained)

    own = grads["block_2"]["dense"]
    norm = np.hypot(networks.norm(own["kernel"]), networks.norm(own["bias"]))
    assert gauges.table.names == [f"block_{n}" for n in range(4)]
    np.testing.assert_allclose(gauges["grad_norm"][2], norm, rtol=1e-6)
    assert np.isnan(gauges["grad_norm"][:2]).all()


def test_a_layer_below_a_stopped_gradient_receives_nothing():
    def loss(params, batch):
        h = batch.x @ params.embed
        for n in range(networks.LAYERS):
            weights = (params.kernel[n], params.bias[n])
            h = jax.lax.stop_gradient(h) if n == 2 else h
            h = research.tap(networks.layer(h, *weights), f"layer/{n}")
        return networks.mean_square(h @ params.head, batch.y)

    _, _, gauges = measure(loss, PARAMS)

    assert (gauges["signal_grad"][1:3] == 0).all()
    assert (gauges["signal_grad"][3:] > 0).all()


def test_a_module_that_is_called_twice_and_once_in_vain_counts_once():
    network = networks.LinenNetwork()

    def loss(params, batch):
        network.apply({"params": params}, 2 * batch.x)
        return networks.mean_square(network.apply({"params": params}, batch.x), batch.y)

    table = research.watch().layers(loss, networks.linen_params(PARAMS), BATCH)

    assert table.names == [f"block_{n}" for n in range(networks.LAYERS)]
    assert "block_0 does not reach the loss" in str(table)
