"""Probes do not change the network, and their slots receive the norm of the backward gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal, assert_equal

from research.config.options import Level
from research.gauges.slots import tap
from research.gauges.table import Site, measure_at
from research.models.architecture import ForwardContext
from research.models.layer import signal_statistics
from research.training.precision import precision_context

ZERO = jnp.zeros(())


def random_normal(seed, shape):
    elements = np.random.default_rng(seed).standard_normal(shape)
    return jnp.asarray(elements, jnp.float32)


H = random_normal(0, (4, 6))
W = random_normal(1, (6, 6)) / 3


def loss(h):
    return jnp.sum(jnp.sin(h @ W))


def loss_with_tap(h, slot):
    return loss(tap(h, slot))


def test_tap_is_the_identity():
    assert_array_equal(tap(H, ZERO), H)
    assert tap(H, None) is H


def test_the_gradient_passes_a_tap_unchanged():
    gradient = jax.grad(loss_with_tap)(H, ZERO)
    assert_array_equal(gradient, jax.grad(loss)(H))


def test_the_slot_receives_the_norm_of_the_gradient():
    measured = jax.grad(loss_with_tap, argnums=1)(H, ZERO)
    h = np.asarray(H, np.float64)
    w = np.asarray(W, np.float64)
    gradient = np.cos(h @ w) @ w.T
    assert_allclose(measured, np.linalg.norm(gradient), rtol=1e-6)


def test_the_slot_receives_the_norm_of_the_reduced_gradient_while_the_gradient_stays_partial():
    def differentiate(reduce):
        def loss_with_reduced_tap(h, slot):
            return loss(tap(h, slot, reduce=reduce))

        return jax.grad(loss_with_reduced_tap, argnums=(0, 1))(H, ZERO)

    gradient, norm = differentiate(lambda cotangent: cotangent)
    partial_gradient, reduced_norm = differentiate(lambda cotangent: 2 * cotangent)
    assert_array_equal(partial_gradient, gradient)
    assert_allclose(reduced_norm, 2 * norm, rtol=1e-6)


def test_the_value_of_the_slot_changes_nothing():
    seven = jnp.float32(7)
    measure = jax.grad(loss_with_tap, argnums=1)
    assert_array_equal(tap(H, seven), H)
    assert_array_equal(measure(H, seven), measure(H, ZERO))


def sum_of_tapped(slot, factor):
    """Its gradient at the tap has ``factor`` as every element."""
    return jnp.sum(factor * tap(H, slot))


@pytest.mark.parametrize("size", [0.0, 1e-35, 1e-30, 1e-20, 1.0, 1e20, 1e30, 1e36])
def test_cotangents_of_every_magnitude(size):
    factor = np.float32(size)
    measured = jax.jit(jax.grad(sum_of_tapped))(ZERO, factor)
    expected = np.sqrt(H.size) * float(factor)
    assert_allclose(measured, expected, rtol=1e-6)


@pytest.mark.parametrize("size", [np.inf, np.nan])
def test_cotangents_that_are_not_finite(size):
    measured = jax.grad(sum_of_tapped)(ZERO, size)
    assert_equal(np.asarray(measured), np.float32(size))


@pytest.mark.parametrize(
    "dtype, wide",
    [
        ("float16", "float32"),
        ("float64", "float64"),
    ],
)
def test_a_slot_is_measured_in_float32_or_wider(dtype, wide):
    """The sum of squares, 2500 · 2², is right although the elements are of ``dtype``."""
    with precision_context(dtype):
        h = jnp.full((50, 50), 3.0, dtype)
        two = jnp.asarray(2.0, dtype)
        measure = jax.grad(lambda slot: jnp.sum(two * tap(h, slot)))
        measured = measure(jnp.zeros((), wide))
        assert measured.dtype == wide
        assert_allclose(measured, 100.0, rtol=1e-6)


def test_every_layer_of_a_scan_is_measured_separately():
    """h ← 2 h̃ with h̃ = tap(h): what arrives at layer l of N is 2^(N-l) at every element."""
    depth = 60

    def layer(h, slot):
        return 2.0 * tap(h, slot), None

    def scan_layers(slots):
        h, _ = jax.lax.scan(layer, H, slots)
        return jnp.sum(h)

    measured = jax.jit(jax.grad(scan_layers))(jnp.zeros(depth))
    layers_above = depth - np.arange(depth)
    expected = np.sqrt(H.size) * 2.0**layers_above
    assert_allclose(measured, expected, rtol=1e-6)


def run_layers(h, weights):
    for weight in weights:
        h = jnp.tanh(h @ weight)
    return h


def test_a_scan_equals_the_loop_over_its_layers():
    weights = jnp.stack([W, 2 * W, W @ W])

    def layer(h, inputs):
        weight, slot = inputs
        return jnp.tanh(tap(h, slot) @ weight), None

    def scan_layers(slots):
        h, _ = jax.lax.scan(layer, H, (weights, slots))
        return jnp.sum(h)

    measured = jax.grad(scan_layers)(jnp.zeros(3))
    for n in range(3):

        def run_from_layer(h, n=n):
            return jnp.sum(run_layers(h, weights[n:]))

        gradient = jax.grad(run_from_layer)(run_layers(H, weights[:n]))
        assert_allclose(measured[n], np.linalg.norm(gradient), rtol=1e-5)


def test_each_member_of_a_vmap_has_a_separate_slot():
    sizes = np.array([1, 1e-25, 1e25])
    batch = jnp.stack([H, 1e-25 * H, 1e25 * H])

    def loss_with_gradient_h(slot, h):
        return jnp.sum(tap(h, slot) * jax.lax.stop_gradient(h))

    measure = jax.jit(jax.vmap(jax.grad(loss_with_gradient_h)))
    measured = measure(jnp.zeros(3), batch)
    assert_allclose(measured, np.linalg.norm(H) * sizes, rtol=1e-6)


def test_an_unused_output_measures_zero():
    def loss_without_tap(slot):
        unused = jnp.sum(0 * tap(H, slot))
        return unused + jnp.sum(H)

    measured = jax.grad(loss_without_tap)(ZERO)
    assert_array_equal(measured, 0)


def test_without_a_slot_nothing_is_compiled():
    jaxpr = jax.make_jaxpr(lambda h: tap(h, None))(H)
    assert not jaxpr.eqns


def test_without_a_slot_the_gradient_is_compiled_as_if_there_were_no_tap():
    without_slot = jax.make_jaxpr(jax.grad(lambda h: loss_with_tap(h, None)))(H)
    without_tap = jax.make_jaxpr(jax.grad(loss))(H)
    assert str(without_slot) == str(without_tap)


def forward_gauges(h):
    all_elements = 1.0
    return measure_at(Site.FORWARD, Level.norms, h, all_elements)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e30])
def test_forward_gauges_against_numpy(size):
    h = np.float32(size) * (H + np.float32(0.5))
    measured = jax.jit(forward_gauges)(h)
    wide = np.asarray(h, np.float64)
    rms = np.sqrt(np.mean((wide / size) ** 2)) * size
    assert_allclose(measured["activation_rms"], rms, rtol=1e-6)
    assert_allclose(measured["activation_mean"], np.mean(wide), rtol=1e-5)


@pytest.mark.parametrize("name", ["activation_rms", "activation_mean"])
def test_forward_gauges_of_float16_are_not_summed_in_float16(name):
    h = jnp.full((100, 100), 300, jnp.float16)
    measured = forward_gauges(h)[name]
    assert_allclose(measured, 300, rtol=1e-6)
    assert measured.dtype == jnp.float32


def test_forward_gauges_have_no_gradient(make_architecture, make_hparams):
    arch = make_architecture(width=H.shape[-1])
    ctx = ForwardContext(make_hparams(arch, runs=None), train=True, level=Level.full)

    def sum_of_statistics(h):
        return sum(signal_statistics(arch, h, ctx, 0).values())

    assert_array_equal(jax.grad(sum_of_statistics)(H), 0)
