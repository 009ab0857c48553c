"""What formats lose, predicted from histograms, against conversions by NumPy and ml_dtypes."""

import math

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose
from pytest import approx
from scipy.special import erf

from research.theory.formats import (
    BINS,
    FORMATS,
    LOWEST,
    layerwise_underflow,
    log_mean_square,
    overflow_fraction,
    smallest_safe_loss_scale,
    underflow_fraction,
)

NARROW = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
SCALES = [2.0**-12, 1.0, 2.0**3, 2.0**10, 2.0**25]


def histogram(x):
    """The fractions of all elements of ``x`` by exponent, by NumPy."""
    is_counted = (x != 0) & np.isfinite(x)
    exponents = np.frexp(x[is_counted].astype(np.float64))[1] - 1
    bins = np.clip(exponents - LOWEST, 0, BINS - 1)
    counts = np.zeros(BINS)
    np.add.at(counts, bins, 1)
    return counts / len(x)


def histograms(rows):
    return np.stack([histogram(row) for row in rows])


def log_uniform(octaves=40, count=50_000):
    """Elements of either sign over so many powers of two, half of them zero."""
    generator = np.random.default_rng(0)
    signs = generator.choice([-1.0, 1.0], count)
    magnitudes = 2.0 ** generator.uniform(-octaves, octaves / 3, count)
    is_nonzero = generator.uniform(size=count) < 0.5
    return signs * magnitudes * is_nonzero


def dtype_of(format_):
    return getattr(ml_dtypes, format_, None) or format_


def convert(x, format_, scale):
    scaled = x.astype(np.float64) * scale
    with np.errstate(over="ignore", invalid="ignore"):
        return scaled.astype(dtype_of(format_)).astype(np.float64)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("format_", NARROW)
def test_underflow_is_predicted_exactly_at_powers_of_two(format_, scale):
    x = log_uniform(145 if format_ == "bfloat16" else 40)
    expected = np.mean(convert(x[x != 0], format_, scale) == 0)
    predicted = underflow_fraction(histogram(x), format_, scale)
    assert predicted == approx(expected, abs=1e-12)
    assert 0 < expected < 1 or scale in (SCALES[0], SCALES[-1])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("format_", NARROW)
def test_overflow_is_predicted(format_, scale):
    """Only nearly: elements are taken as even within the bin that the largest number cuts."""
    x = log_uniform()
    converted = convert(x[x != 0], format_, scale)
    expected = np.mean(~np.isfinite(converted))
    predicted = overflow_fraction(histogram(x), format_, scale)
    assert predicted == approx(expected, abs=2e-3)


@pytest.mark.parametrize("scale", [3.0, 5.7, 1000.0])
def test_underflow_at_scales_between_powers_of_two(scale):
    x = log_uniform()
    expected = np.mean(convert(x[x != 0], "float16", scale) == 0)
    predicted = underflow_fraction(histogram(x), "float16", scale)
    assert predicted == approx(expected, abs=5e-3)


@pytest.mark.parametrize("octaves", [-30, -27, -25, -23])
def test_a_gaussian_loses_erf(octaves):
    """Micikevicius et al. 2018: of a population of rms s, float16 flushes erf(2^-25/(s·√2))."""
    rms = 2.0**octaves
    x = rms * np.random.default_rng(1).standard_normal(200_000)
    expected = erf(2.0**-25 / (rms * math.sqrt(2)))
    predicted = underflow_fraction(histogram(x), "float16")
    assert predicted == approx(expected, abs=0.004)


def round_in_every_layer(format_, spread, scale, *, layers=24, examples=60, width=3000):
    """Passes a gradient through layers of Gaussian elements, exact and rounded.

    The gradient falls by √½ a layer towards layer 0. ``spread`` is the standard deviation of the
    logarithms of the examples' sizes. The rounded gradient has, in the next layer, the size that
    rounding left of each example.

    Returns:
        The histograms [N, BINS] of the exact gradient, and the fraction [N] of the rounded one that
        is 0.
    """
    generator = np.random.default_rng(4)
    sizes = 2.0**-20 * np.exp(spread * generator.standard_normal(examples))
    exact = sizes[:, None]
    rounded = sizes[:, None]
    rows = []
    underflow = []
    for _ in range(layers):
        elements = generator.standard_normal((examples, width))
        converted = convert(rounded * elements, format_, scale) / scale
        rows.append(histogram((exact * elements).ravel()))
        underflow.append(np.mean(converted == 0))
        exact = exact / np.sqrt(2)
        mean_square = np.mean(converted**2, axis=1, keepdims=True)
        rounded = np.sqrt(mean_square / 2)
    return np.stack(rows[::-1]), np.array(underflow[::-1])


@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize(
    ("format_", "scale"), [("float16", 1.0), ("float16", 8.0), ("float8_e5m2", 2.0**8)]
)
def test_underflow_is_predicted_in_a_chain_of_rounding_layers(format_, scale, spread):
    rows, underflow = round_in_every_layer(format_, spread, scale)
    predicted = layerwise_underflow(rows, format_, scale)
    assert_allclose(predicted, underflow, atol=0.01)
    assert underflow[0] > 0.9
    assert underflow[-1] < 0.05
    # One rounding alone does not explain it.
    assert np.ptp(predicted - underflow_fraction(rows, format_, scale)) > 0.08


def test_one_rounding_explains_everything_where_the_layers_above_lose_nothing():
    rows = histograms([log_uniform(), np.zeros(10), log_uniform(), np.ones(10)])
    predicted = layerwise_underflow(rows, "float16", 2.0)
    one_rounding = underflow_fraction(rows, "float16", 2.0)
    assert_allclose(predicted[2:], one_rounding[2:], atol=1e-6)
    assert np.isnan(predicted[1])
    assert predicted[0] >= predicted[2] - 0.02


@pytest.mark.parametrize("format_", FORMATS)
def test_limits_are_those_of_the_format(format_):
    info = ml_dtypes.finfo(dtype_of(format_))
    limits = FORMATS[format_]
    assert math.ldexp(1.0, limits.smallest_normal) == float(info.smallest_normal)
    assert limits.underflow == math.log2(float(info.smallest_subnormal)) - 1
    assert math.log2(float(info.max)) <= limits.overflow <= float(info.maxexp)


def test_layers_are_separate_and_an_empty_one_is_nan():
    rows = histograms([log_uniform(), np.zeros(10)])
    fractions = underflow_fraction(rows, "float16")
    assert fractions[0] == underflow_fraction(rows[0], "float16")
    assert np.isnan(fractions[1])


@pytest.mark.parametrize("format_", ["float16", "float8_e5m2"])
def test_the_safe_scale_is_the_smallest_power_of_two_that_is_safe(format_):
    elements = np.random.default_rng(2).standard_normal((2, 20_000))
    rows = histograms(2.0**-27 * elements * np.array([[1.0], [0.1]]))
    scale = smallest_safe_loss_scale(rows, format_)
    assert scale is not None
    assert np.max(underflow_fraction(rows, format_, scale)) <= 0.01
    assert np.max(underflow_fraction(rows, format_, scale / 2)) > 0.01


def test_no_scale_is_safe_for_elements_that_span_more_than_the_format():
    rows = histograms([log_uniform(60)])
    assert smallest_safe_loss_scale(rows, "float8_e4m3fn") is None


def test_the_safe_scale_is_one_where_nothing_is_lost():
    rows = histograms([np.ones(10)])
    assert smallest_safe_loss_scale(rows, "float16") == 1


@pytest.mark.parametrize("factor", [1.0, 2.0**-40, 2.0**-100])
def test_mean_squares_from_histograms(factor):
    """To a few percent: the mantissas of a Gaussian are not even."""
    elements = np.random.default_rng(3).standard_normal((2, 50_000))
    rows = histograms(elements * np.array([[1.0], [factor]]))
    logs = log_mean_square(rows)
    assert logs[1] - logs[0] == approx(2 * math.log(factor), abs=0.05)


def test_the_mean_square_of_nothing_is_zero():
    assert log_mean_square(np.zeros(BINS)) == -math.inf
