"""Exponents counted from the bits, against NumPy in float64: all numbers of 16-bit formats, random ones of others."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from research.gauges.exponents import exponent_counts
from research.gauges.slots import tap
from research.theory.formats import BINS, FORMATS, HIGHEST, LOWEST, gauges_from_counts
from research.training.precision import scope

KINDS = ["float16", "bfloat16", "float32", "float64"]
ALL = 2**16


def numbers(kind):
    """Bit patterns as they come: subnormals, infinities and NaN are among them; zeros and extremes are added."""
    dtype = np.dtype(getattr(ml_dtypes, kind, None) or kind)
    if dtype.itemsize == 2:
        return np.arange(ALL, dtype=np.uint16).view(dtype)
    generator = np.random.default_rng(0)
    info = np.finfo(kind)
    drawn = np.frombuffer(generator.bytes(ALL * dtype.itemsize), dtype)
    tiny = (
        (generator.integers(1, 2**info.nmant, ALL)).astype(f"uint{info.bits}").view(dtype)
    )  # subnormal
    edges = [0, -0.0, np.inf, -np.inf, np.nan, info.tiny, -info.smallest_subnormal, info.max, 1, -2]
    return np.concatenate([drawn, tiny, np.array(edges, dtype)])


def in_float64(x):
    with np.errstate(invalid="ignore"):  # signalling NaN
        return np.asarray(x).astype(np.float64).ravel()


def counted_by_numpy(x):
    wide = in_float64(x)
    finite = np.isfinite(wide)
    counts = np.zeros(BINS + 2)
    exponent = np.clip(np.frexp(wide[finite & (wide != 0)])[1] - 1, LOWEST, HIGHEST)
    np.add.at(counts, exponent - LOWEST, 1)
    counts[BINS:] = np.sum(wide == 0), np.sum(~finite)
    return counts


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_those_of_numpy(kind):
    x = numbers(kind)
    with scope(kind):
        measured = jax.jit(exponent_counts)(jnp.asarray(x))
    np.testing.assert_array_equal(measured, counted_by_numpy(x))


@pytest.mark.parametrize("kind", KINDS[:3])
def test_fractions_are_those_of_numpy(kind):
    """Zero, subnormal and not finite, each in its own format."""
    x = numbers(kind)
    counts = np.asarray(jax.jit(exponent_counts)(jnp.asarray(x)))
    read = gauges_from_counts({"own": {"signal": counts, "grad": counts}}, kind, kind)
    wide = in_float64(x)
    subnormal = (wide != 0) & (np.abs(wide) < float(ml_dtypes.finfo(x.dtype).smallest_normal))
    for name in ("signal", "grad"):
        expected = [np.mean(wide == 0), np.mean(subnormal), np.mean(~np.isfinite(wide))]
        measured = [read[f"{name}_{gauge}"] for gauge in ("zero", "subnormal", "nonfinite")]
        np.testing.assert_allclose(measured, expected, rtol=1e-12)
        assert read[f"{name}_exponent"].sum() + expected[0] + expected[2] == pytest.approx(
            1, abs=1e-12
        )
    assert FORMATS[kind].smallest_normal == np.log2(float(ml_dtypes.finfo(x.dtype).smallest_normal))


def test_leaves_are_counted_together_and_layers_apart():
    x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    tree = {"kernel": x, "bias": 1e-9 * x[:, 0]}
    measured = jax.jit(lambda tree: exponent_counts(tree, 1))(tree)
    for layer in range(3):
        expected = counted_by_numpy(
            np.concatenate([tree["kernel"][layer].ravel(), tree["bias"][layer]])
        )
        np.testing.assert_array_equal(measured[layer], expected)


def through(kind, tapped=True):
    """The gradient with respect to the slots of sixty layers, each of which multiplies by 2^-3."""

    def loss(h, slots):
        def body(h, slot):
            return (jnp.asarray(0.125, h.dtype) * (tap(h, slot) if tapped else h), None)

        return jnp.sum(jax.lax.scan(body, h, slots)[0].astype(jnp.float32))

    return jax.jit(jax.grad(loss, (0, 1)))(jnp.ones((4, 6), kind), jnp.zeros((60, BINS + 2)))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_a_tap_with_a_vector_counts_what_arrives_at_each_layer_of_a_scan(kind):
    """At layer l of 60 all 24 elements are 2^(-3(60-l)), until the format holds them no more."""
    h, counts = through(kind)
    np.testing.assert_array_equal(h, through(kind, tapped=False)[0])
    for layer, row in enumerate(np.asarray(counts)):
        exponent = -3 * (60 - layer)
        (place,) = np.flatnonzero(row)
        assert row[place] == 24
        if exponent >= FORMATS[kind].smallest_normal:
            assert place == exponent - LOWEST
        else:
            assert place in (exponent - LOWEST, BINS)  # a backend may flush what is subnormal
        if exponent < FORMATS[kind].underflow:
            assert place == BINS
