"""``precision.layers``: single layers compute in another number format than the rest."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

from research.config.layer_formats import index_formats, kinds_in
from research.models.architecture import ForwardContext, LayerFormat
from research.models.rounding import round_to_nearest
from research.models.stack import Stack
from research.runner.run_setup import make_run_setup
from research.runner.run_spec import group_key

from ..builders import make_architecture, make_config, make_hparams
from ..compiling import quick

FLOAT32 = LayerFormat("float32")
BFLOAT16 = LayerFormat("bfloat16")
SLOW = pytest.mark.slow
FLOAT8 = LayerFormat("float32", "float8_e4m3fn")


def make_network(indices, *formats, **changes):
    """A network whose layers have the formats of some indices, and its hyperparameters."""
    arch = make_architecture(depth=len(indices), layer_formats=formats, **changes)
    hp = make_hparams(arch, runs=None)
    hp = dataclasses.replace(hp, layer_formats=jnp.asarray(indices, jnp.int32))
    return Stack(arch, hp, rngs=nnx.Rngs(0)), hp


def logits_and_gradient(network, hp, x):
    graph, params, others = nnx.split(network, nnx.Param, ...)

    def total(params):
        model = nnx.merge(graph, params, others, copy=True)
        logits, _ = model(x, {}, ForwardContext(hp, train=True))
        return jnp.sum(logits.astype(jnp.float32) ** 2), logits

    gradient, logits = quick(jax.grad(total, has_aux=True))(params)
    return logits, nnx.to_pure_dict(gradient)


def unrolled(network, formats, x):
    """The logits of a plain tanh network, layer by layer, each in its format."""

    def linear(weights, h, dtype):
        return (
            h.astype(dtype) @ weights["kernel"].astype(dtype) + weights["bias"].astype(dtype)[None]
        )

    own_format = network["embed"]["kernel"].dtype if "kernel" in network["embed"] else None
    h = linear(network["embed"], x, own_format)
    stack = network["stages"][0]["branch"]["weights"][0]
    for layer, (dtype, rounding) in enumerate(formats):
        weights = jax.tree.map(lambda leaf, layer=layer: leaf[layer], stack)
        h = h.astype(dtype)
        if rounding:
            h = round_to_nearest(h, rounding)
        h = linear(weights, jnp.tanh(h), dtype)
    return linear(network["head"], jnp.tanh(h.astype(own_format)), own_format)


X = jnp.asarray(np.random.default_rng(0).standard_normal((6, 5)), jnp.float32)


@pytest.mark.parametrize(
    ("own", "indices", "others"),
    [
        ("float16", (0, 1, 1), [FLOAT32]),
        pytest.param("bfloat16", (1, 0, 2), [FLOAT32, LayerFormat("float16")], marks=SLOW),
        pytest.param("float32", (0, 1, 2), [BFLOAT16, FLOAT8], marks=SLOW),
    ],
)
def test_a_network_equals_its_layers_in_a_row(own, indices, others):
    network, hp = make_network(indices, *others, dtype=own, param_dtype=own)
    formats = [LayerFormat(own), *others]
    in_order = [(formats[index].dtype, formats[index].rounding) for index in indices]
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))

    def total(params):
        logits = unrolled(params, in_order, X.astype(own))
        return jnp.sum(logits.astype(jnp.float32) ** 2), logits

    expected_gradient, expected = quick(jax.grad(total, has_aux=True))(params)
    logits, gradient = logits_and_gradient(network, hp, X.astype(own))

    assert logits.dtype == own
    tolerance = 4 * float(jnp.finfo(own).eps)
    assert_allclose(*_wide(logits, expected), rtol=tolerance, atol=tolerance)
    if FLOAT8 not in others:  # rounds the gradient too, which the reference does not
        leaves = zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True)
        for one, other in leaves:
            scale = float(jnp.max(jnp.abs(other.astype(jnp.float32))))
            assert_allclose(*_wide(one, other), rtol=0, atol=4 * tolerance * scale)


def _wide(*arrays):
    return [np.asarray(array, np.float32) for array in arrays]


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_layers_in_the_format_of_the_network_change_nothing(norm):
    plain, plain_hp = make_network((0, 0, 0), norm=norm)
    plain_hp = dataclasses.replace(plain_hp, layer_formats=None)
    named, hp = make_network((1, 0, 1), FLOAT32, norm=norm)
    for one, other in zip(
        jax.tree.leaves(logits_and_gradient(plain, plain_hp, X)),
        jax.tree.leaves(logits_and_gradient(named, hp, X)),
        strict=True,
    ):
        assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def with_large_signal(network):
    """The network whose second layer writes, and third layer reads, numbers beyond float16."""
    kernel = network.stages[0].branch.weights[0].kernel
    factors = jnp.asarray([1, 1e5, 1e-5, 1], kernel[...].dtype)[:, None, None]
    kernel[...] = kernel[...] * factors
    return network


@pytest.mark.slow
def test_two_layers_hand_each_other_a_signal_that_the_others_cannot_hold():
    changes = {"activation": "relu", "dtype": "float16", "param_dtype": "float32"}
    overflowing, hp = make_network((0, 0, 0, 0), FLOAT32, **changes)
    logits, _ = logits_and_gradient(with_large_signal(overflowing), hp, X.astype("float16"))
    assert not np.all(np.isfinite(logits))
    wide, hp = make_network((0, 1, 1, 0), FLOAT32, **changes)
    logits, gradient = logits_and_gradient(with_large_signal(wide), hp, X.astype("float16"))
    assert np.all(np.isfinite(logits))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient["stages"]))


@pytest.mark.slow
def test_signals_are_those_of_a_pass():
    network, hp = make_network((0, 1, 0), BFLOAT16)
    ctx = ForwardContext(hp, train=False)
    first = network.first_input(X, ctx)
    signals = network.signals(first, ctx)
    last, _ = network.run_layers(first, {}, ctx)
    assert len(signals) == 4
    assert_allclose(signals[-1], last, rtol=1e-5, atol=1e-6)


def config_with(*layers, **settings):
    settings = {"model.depth": 4, "model.width": 8} | settings
    return make_config({"precision": "mixed_float16", "precision.layers": layers, **settings})


def test_every_choice_of_layers_shares_one_program():
    one = config_with("1-2:float32")
    other = config_with("0:float32", "3:float32")
    without = config_with()
    assert group_key(one) == group_key(other) != group_key(without)
    setup = make_run_setup(one, other)
    assert setup.program_config == make_run_setup(other).program_config
    assert_array_equal(setup.hp.layer_formats, [[0, 1, 1, 0], [1, 0, 0, 1]])


def test_a_layer_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"must name layers from 0 to 3, got 2-4:float32"):
        make_run_setup(config_with("2-4:float32"))


def test_formats_are_numbered_in_a_fixed_order():
    entries = ["0:float16", "2:float32"]
    assert [kind.name for kind in kinds_in(entries)] == ["float32", "float16"]
    assert index_formats(entries, 3) == [2, 0, 1]
