"""The probes: invisible to the network, and their slots receive the norm of what arrives backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.gauges.slots import forward_statistics, tap
from research.training.precision import scope

ZERO = jnp.zeros(())
H = jnp.asarray(np.random.default_rng(0).standard_normal((4, 6)), jnp.float32)
W = jnp.asarray(np.random.default_rng(1).standard_normal((6, 6)) / 3, jnp.float32)


def loss(h):
    return jnp.sum(jnp.sin(h @ W))


def test_tap_is_the_identity():
    np.testing.assert_array_equal(tap(H, ZERO), H)
    assert tap(H, None) is H


def test_the_gradient_passes_a_tap_unchanged():
    np.testing.assert_array_equal(jax.grad(lambda h: loss(tap(h, ZERO)))(H), jax.grad(loss)(H))


def test_the_slot_receives_the_norm_of_the_gradient():
    measured = jax.grad(lambda slot: loss(tap(H, slot)))(ZERO)
    h = np.asarray(H, np.float64)
    w = np.asarray(W, np.float64)
    expected = np.linalg.norm(np.cos(h @ w) @ w.T)
    np.testing.assert_allclose(measured, expected, rtol=1e-6)


def test_the_value_of_the_slot_changes_nothing():
    np.testing.assert_array_equal(tap(H, jnp.float32(7)), H)
    measure = jax.grad(lambda slot: loss(tap(H, slot)))
    np.testing.assert_array_equal(measure(jnp.float32(7)), measure(ZERO))


@pytest.mark.parametrize("size", [0.0, 1e-35, 1e-30, 1e-20, 1.0, 1e20, 1e30, 1e36])
def test_cotangents_of_every_magnitude(size):
    factor = np.float32(size)
    measured = jax.jit(jax.grad(lambda slot: jnp.sum(factor * tap(H, slot))))(ZERO)
    np.testing.assert_allclose(measured, np.sqrt(H.size) * float(factor), rtol=1e-6)


@pytest.mark.parametrize("size", [np.inf, np.nan])
def test_cotangents_that_are_no_numbers(size):
    np.testing.assert_equal(
        np.asarray(jax.grad(lambda slot: jnp.sum(size * tap(H, slot)))(ZERO)), np.float32(size)
    )


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_slot_is_measured_in_float32_or_wider(dtype):
    with scope(dtype):
        wide = "float64" if dtype == "float64" else "float32"
        h = jnp.full(
            (50, 50), 3.0, dtype
        )  # the sum of squares, 22500 per 1, is beyond float16 at a factor of 2
        measured = jax.grad(lambda slot: jnp.sum(jnp.asarray(2.0, dtype) * tap(h, slot)))(
            jnp.zeros((), wide)
        )
        assert measured.dtype == wide
        np.testing.assert_allclose(measured, 100.0, rtol=1e-6)


def test_every_layer_of_a_scan_is_measured_apart():
    """h ← 2 h̃ with h̃ = tap(h): what arrives at layer l of N is 2^(N-l) at every element."""
    layers = 60

    def through(slots):
        return jnp.sum(jax.lax.scan(lambda h, slot: (2.0 * tap(h, slot), None), H, slots)[0])

    measured = jax.jit(jax.grad(through))(jnp.zeros(layers))
    np.testing.assert_allclose(
        measured, np.sqrt(H.size) * 2.0 ** (layers - np.arange(layers)), rtol=1e-6
    )


def test_a_scan_equals_the_loop_over_its_layers():
    weights = jnp.stack([W, 2 * W, W @ W])

    def body(h, layer):
        weight, slot = layer
        return jnp.tanh(tap(h, slot) @ weight), None

    scanned = jax.grad(lambda slots: jnp.sum(jax.lax.scan(body, H, (weights, slots))[0]))(
        jnp.zeros(3)
    )
    for layer in range(3):

        def rest(h, first=layer):
            for weight in weights[first:]:
                h = jnp.tanh(h @ weight)
            return jnp.sum(h)

        h = H
        for weight in weights[:layer]:
            h = jnp.tanh(h @ weight)
        np.testing.assert_allclose(scanned[layer], np.linalg.norm(jax.grad(rest)(h)), rtol=1e-5)


def test_each_member_of_a_vmap_has_its_own_slot():
    batch = jnp.stack([H, 1e-25 * H, 1e25 * H])
    measure = jax.vmap(jax.grad(lambda slot, h: jnp.sum(tap(h, slot) * jax.lax.stop_gradient(h))))
    measured = jax.jit(measure)(jnp.zeros(3), batch)
    np.testing.assert_allclose(measured, np.linalg.norm(H) * np.array([1, 1e-25, 1e25]), rtol=1e-6)


def test_an_unused_output_measures_zero():
    np.testing.assert_array_equal(
        jax.grad(lambda slot: jnp.sum(0 * tap(H, slot)) + jnp.sum(H))(ZERO), 0
    )


def test_without_a_slot_nothing_is_compiled():
    assert not jax.make_jaxpr(lambda h: tap(h, None))(H).eqns
    bare, untapped = (jax.make_jaxpr(jax.grad(f))(H) for f in (loss, lambda h: loss(tap(h, None))))
    assert str(bare) == str(untapped)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e30])
def test_forward_statistics_against_numpy(size):
    h = np.float32(size) * (H + np.float32(0.5))
    measured = jax.jit(forward_statistics)(h)
    wide = np.asarray(h, np.float64)
    np.testing.assert_allclose(
        measured["activation_rms"], np.sqrt(np.mean((wide / size) ** 2)) * size, rtol=1e-6
    )
    np.testing.assert_allclose(measured["activation_mean"], np.mean(wide), rtol=1e-5)


def test_forward_statistics_of_float16_are_not_summed_in_float16():
    h = jnp.full((100, 100), 300, jnp.float16)
    measured = forward_statistics(h)
    np.testing.assert_allclose(
        [measured["activation_rms"], measured["activation_mean"]], 300, rtol=1e-6
    )
    assert {value.dtype for value in measured.values()} == {jnp.dtype("float32")}


def test_forward_statistics_are_outside_differentiation():
    grad = jax.grad(lambda h: sum(forward_statistics(h).values()))(H)
    np.testing.assert_array_equal(grad, 0)
