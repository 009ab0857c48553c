"""Rounding through 8-bit formats, bit by bit against the conversions of ml_dtypes."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from research.models.rounding import nearest, rounded

FORMATS = ["float8_e4m3fn", "float8_e5m2"]


def bits(x):
    """As integers; all NaN alike."""
    x = np.asarray(x, np.float32)
    return np.where(np.isnan(x), np.uint32(0x7FC00000), x.view(np.uint32))


def converted(x, format_):
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(x, np.float32).astype(getattr(ml_dtypes, format_)).astype(np.float32)


def numbers(format_):
    """Random bit patterns, every number of the format, every tie between two of them, and both sides of each tie."""
    generator = np.random.default_rng(0)
    drawn = np.frombuffer(generator.bytes(4 * 100_000), np.float32)
    near = (
        generator.standard_normal(100_000) * 2.0 ** generator.integers(-20, 20, 100_000)
    ).astype(np.float32)
    own = np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, format_)).astype(np.float32)
    finite = np.sort(own[np.isfinite(own)])
    ties = (finite[1:] + finite[:-1]) / 2
    sides = [np.nextafter(ties, np.float32(toward)) for toward in (-np.inf, np.inf)]
    return np.concatenate(
        [drawn, near, own, ties, *sides, np.array([464, 465, 61439, 61440], np.float32)]
    )


@pytest.mark.parametrize("format_", FORMATS)
def test_every_number_is_rounded_as_ml_dtypes_converts_it(format_):
    x = numbers(format_)
    measured = jax.jit(nearest, static_argnums=1)(x, format_)
    np.testing.assert_array_equal(bits(measured), bits(converted(x, format_)))


@pytest.mark.parametrize("format_", FORMATS)
def test_values_are_rounded_forward_and_gradients_backward(format_):
    x, g = (
        np.random.default_rng(seed).standard_normal((4, 5)).astype(np.float32) for seed in (0, 1)
    )
    y, back = jax.vjp(jax.jit(lambda x: rounded(x, format_, False)), x)
    np.testing.assert_array_equal(bits(y), bits(converted(x, format_)))
    np.testing.assert_array_equal(bits(back(jnp.asarray(g))[0]), bits(converted(g, format_)))


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 300.0, 1e6, 1e30])
@pytest.mark.parametrize("format_", FORMATS)
def test_a_scale_for_the_tensor_keeps_the_relative_precision_of_any_size(format_, size):
    """Elements within 2^12 of the greatest are normal then, but for e4m3's shorter range; none overflows."""
    x = np.random.default_rng(0).standard_normal((50, 50)).astype(np.float32)
    measured = np.asarray(rounded(jnp.asarray(x * np.float32(size)), format_, True)) / np.float32(
        size
    )
    unit = 2.0 ** -(ml_dtypes.finfo(format_).nmant + 1)
    normal = np.abs(x) > np.abs(x).max() / 2**12
    assert np.max(np.abs(measured / x - 1)[normal]) <= unit * 1.001


@pytest.mark.parametrize("greatest", [0.0, np.inf, np.nan])
def test_a_tensor_without_a_greatest_finite_number_is_not_shifted(greatest):
    x = jnp.asarray([greatest, 0.0, 1.0], jnp.float32) if greatest else jnp.zeros(3)
    np.testing.assert_array_equal(
        bits(rounded(x, "float8_e5m2", True)), bits(converted(x, "float8_e5m2"))
    )


def test_without_a_format_nothing_is_compiled():
    assert not jax.make_jaxpr(lambda x: rounded(x, "", False))(jnp.ones(3)).eqns
