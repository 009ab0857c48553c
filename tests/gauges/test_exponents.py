"""Exponents counted from bits, against NumPy in float64: all 16-bit numbers, others at random."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx

from research.gauges.exponents import exponent_counts
from research.gauges.slots import tap
from research.theory.formats import BINS, FORMATS, HIGHEST, LOWEST, gauges_from_counts
from research.training.precision import precision_context

KINDS = ["float16", "bfloat16", "float32", "float64"]
COUNT = 2**16


def numbers(kind):
    """All bit patterns of a 16-bit format; random, subnormal and extreme ones of a wider format."""
    dtype = np.dtype(getattr(ml_dtypes, kind, None) or kind)
    if dtype.itemsize == 2:
        return np.arange(COUNT, dtype=np.uint16).view(dtype)
    generator = np.random.default_rng(0)
    info = np.finfo(kind)
    random = np.frombuffer(generator.bytes(COUNT * dtype.itemsize), dtype)
    mantissas = generator.integers(1, 2**info.nmant, COUNT)
    subnormal = mantissas.astype(f"uint{info.bits}").view(dtype)
    extremes = [
        0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        info.tiny,
        -info.smallest_subnormal,
        info.max,
        1,
        -2,
    ]
    return np.concatenate([random, subnormal, np.array(extremes, dtype)])


def to_float64(x):
    with np.errstate(invalid="ignore"):  # signalling NaN
        return np.asarray(x).astype(np.float64).ravel()


def count_with_numpy(x):
    wide = to_float64(x)
    is_zero = wide == 0
    is_finite = np.isfinite(wide)
    exponents = np.frexp(wide[is_finite & ~is_zero])[1] - 1
    counts = np.zeros(BINS + 2)
    np.add.at(counts, np.clip(exponents, LOWEST, HIGHEST) - LOWEST, 1)
    counts[BINS] = np.sum(is_zero)
    counts[BINS + 1] = np.sum(~is_finite)
    return counts


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_those_of_numpy(kind):
    x = numbers(kind)
    with precision_context(kind):
        measured = jax.jit(exponent_counts)(jnp.asarray(x))
    assert_array_equal(measured, count_with_numpy(x))


@pytest.mark.parametrize("name", ["signal", "grad"])
@pytest.mark.parametrize("kind", KINDS[:3])
def test_fractions_are_those_of_numpy(kind, name):
    """Zero, subnormal and not finite, each in its format."""
    x = numbers(kind)
    smallest_normal = float(ml_dtypes.finfo(x.dtype).smallest_normal)
    counts = np.asarray(jax.jit(exponent_counts)(jnp.asarray(x)))
    gauges = gauges_from_counts({"run": {"signal": counts, "grad": counts}}, kind, kind)
    wide = to_float64(x)
    zero = np.mean(wide == 0)
    nonfinite = np.mean(~np.isfinite(wide))
    subnormal = np.mean((wide != 0) & (np.abs(wide) < smallest_normal))
    assert_allclose(gauges[f"{name}_zero"], zero, rtol=1e-12)
    assert_allclose(gauges[f"{name}_subnormal"], subnormal, rtol=1e-12)
    assert_allclose(gauges[f"{name}_nonfinite"], nonfinite, rtol=1e-12)
    total = gauges[f"{name}_exponent"].sum() + zero + nonfinite
    assert total == approx(1, abs=1e-12)
    assert FORMATS[kind].smallest_normal == np.log2(smallest_normal)


def test_leaves_are_counted_together_and_layers_separately():
    generator = np.random.default_rng(0)
    kernel = generator.standard_normal((3, 4, 5)).astype(np.float32)
    bias = 1e-9 * kernel[:, 0]
    count_layers = jax.jit(lambda tree: exponent_counts(tree, 1))
    measured = count_layers({"kernel": kernel, "bias": bias})
    for layer in range(3):
        layer_elements = np.concatenate([kernel[layer].ravel(), bias[layer]])
        assert_array_equal(measured[layer], count_with_numpy(layer_elements))


def differentiate_layers(kind, has_taps=True):
    """The gradients of sixty layers that multiply by 2^-3: of the input and of their slots."""

    def layer(h, slot):
        if has_taps:
            h = tap(h, slot)
        return jnp.asarray(0.125, h.dtype) * h, None

    def loss(h, slots):
        h, _ = jax.lax.scan(layer, h, slots)
        return jnp.sum(h.astype(jnp.float32))

    differentiate = jax.jit(jax.grad(loss, (0, 1)))
    h = jnp.ones((4, 6), kind)
    slots = jnp.zeros((60, BINS + 2))
    return differentiate(h, slots)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_counting_leaves_the_gradient_unchanged(kind):
    with_taps, _ = differentiate_layers(kind)
    without_taps, _ = differentiate_layers(kind, has_taps=False)
    assert_array_equal(with_taps, without_taps)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_a_tap_with_a_vector_counts_what_arrives_at_each_layer_of_a_scan(kind):
    """At layer l of 60 all 24 elements are 2^(-3(60-l)), until the format underflows."""
    _, counts = differentiate_layers(kind)
    limits = FORMATS[kind]
    for layer, row in enumerate(np.asarray(counts)):
        exponent = -3 * (60 - layer)
        (index,) = np.flatnonzero(row)
        assert row[index] == 24
        if exponent >= limits.smallest_normal:
            assert index == exponent - LOWEST
        else:
            assert index in (exponent - LOWEST, BINS)  # a backend may flush subnormal numbers
        if exponent < limits.underflow:
            assert index == BINS
