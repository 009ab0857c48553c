"""A residual network for small images against its formula, in every order and transition."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from research.config.options import Level, Placement, Transition

from ..builders import make_architecture
from ..compiling import quick
from ..oracle import apply_linear
from .networks import FLOAT64, add_noise, initialize, make_numbers, measure, normal
from .taps import Taps, assert_same_signals

ORDERS = [placement for placement in Placement if placement is not Placement.peri]


def list_cases():
    """One case with each transition always runs."""
    cases = []
    for row, placement in enumerate(ORDERS):
        for column, transition in enumerate(Transition):
            always_runs = row == column
            marks = [] if always_runs else [pytest.mark.slow]
            cases.append(pytest.param(placement.name, transition.name, marks=marks))
    return cases


def convolve(x, kernel, stride=1):
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def batch_norm(h, norm):
    mean = jnp.mean(h, (0, 1, 2), keepdims=True)
    variance = jnp.var(h, (0, 1, 2), keepdims=True)
    scale = norm["scale"].reshape(1, 1, 1, -1)
    bias = norm["bias"].reshape(1, 1, 1, -1)
    standardized = (h - mean) / jnp.sqrt(variance + 1e-5)
    return standardized * scale + bias


def branch(z, layer, stride, placement):
    """Two convolutions, each with a norm and a nonlinearity before or after it."""
    first, second = layer["branch"]["weights"].values()
    if placement == "pre":
        z = jax.nn.relu(batch_norm(z, layer["norm"]))
    z = convolve(z, first["kernel"], stride)
    z = jax.nn.relu(batch_norm(z, layer["branch"]["norms"][1]))
    z = convolve(z, second["kernel"])
    if placement == "branch":
        return batch_norm(z, layer["norm"])
    return z


def shortcut(h, layer, stride, channels):
    h = h[:, ::stride, ::stride]
    if "projection" in layer.get("skip", {}):
        projected = h @ layer["skip"]["projection"]["kernel"]
        return batch_norm(projected, layer["skip"]["norm"])
    missing = channels - h.shape[-1]
    unchanged = (0, 0)
    return jnp.pad(h, (unchanged, unchanged, unchanged, (0, missing)))


# The stage and the block of each layer: a block that changes the shape is a stage by itself.
BLOCKS = [
    (0, 0),
    (0, 1),
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
]
STRIDES = [1, 1, 2, 1, 2, 1]
LAYERS = len(BLOCKS)


def residual_network(params, images, perturbations, placement):
    """Depth 14: two blocks each of widths w, 2w and 4w; logits and the signals at every tap.

    References:
        He et al. 2016, Fig. 2; for ``pre``, He et al. 2016b, Fig. 4e.
    """
    taps = Taps(perturbations)
    is_pre = placement == "pre"
    h = convolve(images, params["embed"]["conv"]["kernel"])
    if not is_pre:
        h = jax.nn.relu(batch_norm(h, params["embed"]["norm"]))
    h = taps.add(h)
    for (stage, block), stride in zip(BLOCKS, STRIDES, strict=True):
        layer = jax.tree.map(lambda leaf, block=block: leaf[block], params["stages"][stage])
        z = taps.add(h)
        h = taps.add(h)
        z = branch(z, layer, stride, placement)
        h = z + shortcut(h, layer, stride, z.shape[-1])
        if placement == "post":
            h = batch_norm(h, layer["norm"])
        if not is_pre:
            h = jax.nn.relu(h)
        h = taps.add(h)
    if is_pre:
        h = jax.nn.relu(batch_norm(h, params["norm"]))
    logits = apply_linear(jnp.mean(h, (1, 2)), params["head"])
    return logits, taps.signals


def make_residual_network(placement, transition):
    arch = make_architecture(
        kind="resnet_cifar",
        depth=14,
        width=3,
        shape=(8, 8, 2),
        classes=4,
        skip="identity",
        norm="batch",
        activation="relu",
        placement=placement,
        transition=transition,
        **FLOAT64,
    )
    hp = make_numbers(arch)
    with jax.disable_jit():
        network = initialize(arch, hp)
    return replace(network, params=add_noise(network.params))


@pytest.mark.parametrize("placement, transition", list_cases())
@pytest.mark.usefixtures("float64")
def test_a_residual_network_and_its_gauges_are_those_of_the_formula(placement, transition):
    network = make_residual_network(placement, transition)
    x = jnp.asarray(normal((3, 128)))
    cotangent = jnp.asarray(normal((3, 4), seed=1))

    def expected_objective(params, perturbations):
        images = x.reshape(3, 8, 8, 2)
        logits, signals = residual_network(params, images, perturbations, placement)
        return jnp.sum(logits * cotangent), (logits, signals)

    measured = measure(
        network,
        x,
        cotangent,
        train=True,
        level=Level.norms,
    )
    params = nnx.to_pure_dict(network.params)
    _, (_, shapes) = jax.eval_shape(expected_objective, params, [])
    zeros = [jnp.zeros(signal.shape) for signal in shapes]
    gradient = quick(jax.grad(expected_objective, (0, 1), has_aux=True))
    (grads, signal_grads), (logits, signals) = gradient(params, zeros)

    assert len(signals) == 1 + 3 * LAYERS
    assert_allclose(measured.logits, logits, rtol=1e-10)
    greatest = assert_same_signals(measured, signals, signal_grads, rtol=1e-10)
    measured_grads = nnx.to_pure_dict(measured.grads)
    assert jax.tree.structure(measured_grads) == jax.tree.structure(grads)
    assert_close = partial(assert_allclose, rtol=1e-10, atol=1e-10 * greatest)
    jax.tree.map(assert_close, measured_grads, grads)
