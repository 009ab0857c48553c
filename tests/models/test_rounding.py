"""Rounding through 8-bit formats, bit by bit against the conversions of ml_dtypes."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from research.models.rounding import round_through_format, round_to_nearest

from .networks import normal

FORMATS = {
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}
every_format = pytest.mark.parametrize("name", FORMATS)
NAN_BITS = np.uint32(0x7FC00000)


def bits(x):
    """The bits of float32 numbers; every NaN has the same."""
    x = np.asarray(x, np.float32)
    return np.where(np.isnan(x), NAN_BITS, x.view(np.uint32))


def convert(x, name):
    """Converts to the format and back."""
    with np.errstate(invalid="ignore", over="ignore"):
        narrow = np.asarray(x, np.float32).astype(FORMATS[name])
    return narrow.astype(np.float32)


def assert_same_bits(a, b):
    assert_array_equal(bits(a), bits(b))


def draw(shape, seed=0):
    return normal(shape, seed).astype(np.float32)


def make_cases(name):
    """Random bits, all numbers of the format, the ties between them, both sides of each tie."""
    generator = np.random.default_rng(0)
    random_bits = np.frombuffer(generator.bytes(4 * 100_000), np.float32)
    mantissas = generator.standard_normal(100_000)
    exponents = generator.integers(-20, 20, 100_000)
    moderate = (mantissas * 2.0**exponents).astype(np.float32)
    every_byte = np.arange(256, dtype=np.uint8)
    every_number = every_byte.view(FORMATS[name]).astype(np.float32)
    finite = np.sort(every_number[np.isfinite(every_number)])
    ties = (finite[1:] + finite[:-1]) / 2
    below_ties = np.nextafter(ties, np.float32(-np.inf))
    above_ties = np.nextafter(ties, np.float32(np.inf))
    near_overflow = np.array([464, 465, 61439, 61440], np.float32)
    return np.concatenate(
        [
            random_bits,
            moderate,
            every_number,
            ties,
            below_ties,
            above_ties,
            near_overflow,
        ]
    )


@every_format
def test_every_number_is_rounded_as_ml_dtypes_converts_it(name):
    x = make_cases(name)
    measured = jax.jit(round_to_nearest, static_argnums=1)(x, name)
    assert_same_bits(measured, convert(x, name))


@every_format
def test_values_are_rounded_forward_and_gradients_backward(name):
    x = draw((4, 5), seed=0)
    cotangent = draw((4, 5), seed=1)
    y, pull_back = jax.vjp(jax.jit(lambda x: round_through_format(x, name, False)), x)
    (gradient,) = pull_back(jnp.asarray(cotangent))
    assert_same_bits(y, convert(x, name))
    assert_same_bits(gradient, convert(cotangent, name))


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 300.0, 1e6, 1e30])
@every_format
def test_a_scale_for_the_tensor_keeps_the_relative_precision_of_any_size(name, size):
    """Elements within 2^12 of the greatest are normal after scaling; none overflows."""
    x = draw((50, 50))
    size = np.float32(size)
    measured = np.asarray(round_through_format(jnp.asarray(x * size), name, True)) / size
    relative_error = np.abs(measured / x - 1)
    half_a_place = 2.0 ** -(ml_dtypes.finfo(name).nmant + 1)
    is_normal = np.abs(x) > np.abs(x).max() / 2**12
    assert np.max(relative_error[is_normal]) <= half_a_place * 1.001


@pytest.mark.parametrize(
    "values",
    [
        [0, 0, 0],
        [np.inf, 0, 1],
        [np.nan, 0, 1],
    ],
    ids=str,
)
def test_a_tensor_without_a_greatest_finite_number_is_not_scaled(values):
    x = jnp.asarray(values, jnp.float32)
    measured = round_through_format(x, "float8_e5m2", True)
    assert_same_bits(measured, convert(x, "float8_e5m2"))


def test_without_a_format_nothing_is_compiled():
    program = jax.make_jaxpr(lambda x: round_through_format(x, "", False))(jnp.ones(3))
    assert not program.eqns
