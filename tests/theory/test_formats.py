"""What formats lose, read from histograms, against conversions by NumPy and ml_dtypes."""

import math

import ml_dtypes
import numpy as np
import pytest
from scipy.special import erf

from research.theory.formats import (
    BINS,
    FORMATS,
    LOWEST,
    keeping_scale,
    log_squares,
    lost,
    lost_on_the_way,
    overflowing,
)

NARROW = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
SCALES = [2.0**k for k in (-12, 0, 3, 10, 25)]


def histogram(x):
    """By NumPy, of the finite elements of ``x``."""
    counts = np.zeros(BINS)
    kept = x[(x != 0) & np.isfinite(x)].astype(np.float64)
    np.add.at(counts, np.clip(np.frexp(kept)[1] - 1 - LOWEST, 0, BINS - 1), 1)
    return counts / len(x)


def spread(octaves=40, count=50_000):
    """Elements of either sign over so many powers of two, half of them zero."""
    generator = np.random.default_rng(0)
    x = generator.choice([-1.0, 1.0], count) * 2.0 ** generator.uniform(
        -octaves, octaves / 3, count
    )
    return x * (generator.uniform(size=count) < 0.5)


def converted(x, format_, scale):
    dtype = getattr(ml_dtypes, format_, None) or format_
    with np.errstate(over="ignore", invalid="ignore"):
        return (x.astype(np.float64) * scale).astype(dtype).astype(np.float64)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("format_", NARROW)
def test_what_a_conversion_flushes_is_predicted_exactly_at_powers_of_two(format_, scale):
    x = spread(145 if format_ == "bfloat16" else 40)
    alive = x != 0
    expected = np.mean(converted(x[alive], format_, scale) == 0)
    assert lost(histogram(x), format_, scale) == pytest.approx(expected, abs=1e-12)
    assert 0 < expected < 1 or scale in (SCALES[0], SCALES[-1])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("format_", NARROW)
def test_what_a_conversion_cannot_hold_is_predicted(format_, scale):
    """Within a bin that the greatest number cuts, elements are only taken to lie evenly."""
    x = spread()
    expected = np.mean(~np.isfinite(converted(x[x != 0], format_, scale)))
    assert overflowing(histogram(x), format_, scale) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("scale", [3.0, 5.7, 1000.0])
def test_scales_between_powers_of_two(scale):
    x = spread()
    expected = np.mean(converted(x[x != 0], "float16", scale) == 0)
    assert lost(histogram(x), "float16", scale) == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("octaves", [-30, -27, -25, -23])
def test_a_gaussian_loses_erf(octaves):
    """Micikevicius et al. 2018: of a population of rms s, float16 flushes erf(2^-25/(s·√2))."""
    rms = 2.0**octaves
    x = rms * np.random.default_rng(1).standard_normal(200_000)
    assert lost(histogram(x), "float16") == pytest.approx(
        erf(2.0**-25 / (rms * math.sqrt(2))), abs=0.004
    )


def through_layers(format_, spread, scale, *, layers=24, examples=60, width=3000):
    """Histograms [N, BINS] of a gradient that falls by √½ a layer towards layer 0, and what is lost of it [N].

    Each layer's elements are Gaussian; ``spread`` is the deviation of the logarithms of the examples' sizes. The other
    gradient is rounded in every layer and has, in the next one, the size that rounding left of each example.
    """
    draw = np.random.default_rng(4).standard_normal
    exact = rounded = 2.0**-20 * np.exp(spread * draw(examples))[:, None]
    found = []
    for _ in range(layers):
        elements = draw((examples, width))
        there = converted(rounded * elements, format_, scale) / scale
        found.insert(0, (histogram((exact * elements).ravel()), np.mean(there == 0)))
        exact = exact / np.sqrt(2)
        rounded = np.sqrt(np.mean(there**2, axis=1, keepdims=True) / 2)
    return np.stack([each for each, _ in found]), np.array([flushed for _, flushed in found])


@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize(
    ("format_", "scale"), [("float16", 1.0), ("float16", 8.0), ("float8_e5m2", 2.0**8)]
)
def test_what_a_chain_of_layers_loses_is_foretold(format_, scale, spread):
    rows, flushed = through_layers(format_, spread, scale)
    foretold = lost_on_the_way(rows, format_, scale)
    np.testing.assert_allclose(foretold, flushed, atol=0.01)
    assert (
        flushed[0] > 0.9
        and flushed[-1] < 0.05
        and np.ptp(foretold - lost(rows, format_, scale)) > 0.08
    )


def test_where_nothing_was_lost_before_one_rounding_tells_all():
    rows = np.stack(
        [histogram(spread()), np.zeros(BINS), histogram(spread()), histogram(np.ones(10))]
    )
    foretold = lost_on_the_way(rows, "float16", 2.0)
    np.testing.assert_allclose(foretold[2:], lost(rows, "float16", 2.0)[2:], atol=1e-6)
    assert np.isnan(foretold[1]) and foretold[0] >= foretold[2] - 0.02


@pytest.mark.parametrize("format_", FORMATS)
def test_limits_are_those_of_the_format(format_):
    info = ml_dtypes.finfo(getattr(ml_dtypes, format_, None) or format_)
    limits = FORMATS[format_]
    assert math.ldexp(1.0, limits.least_normal) == float(info.smallest_normal)
    assert limits.flush == math.log2(float(info.smallest_subnormal)) - 1
    assert math.log2(float(info.max)) <= limits.overflow <= float(info.maxexp)


def test_layers_are_read_apart_and_nothing_is_no_number():
    stacked = np.stack([histogram(spread()), np.zeros(BINS)])
    flushed = lost(stacked, "float16")
    assert flushed[0] == lost(stacked[0], "float16")
    assert np.isnan(flushed[1])


@pytest.mark.parametrize("format_", ["float16", "float8_e5m2"])
def test_the_scale_that_keeps_is_the_least_power_of_two_that_does(format_):
    x = 2.0**-27 * np.random.default_rng(2).standard_normal((2, 20_000)) * np.array([[1.0], [0.1]])
    rows = np.stack([histogram(row) for row in x])
    scale = keeping_scale(rows, format_)
    assert scale is not None
    assert np.max(lost(rows, format_, scale)) <= 0.01 < np.max(lost(rows, format_, scale / 2))


def test_no_scale_keeps_what_spans_more_than_the_format():
    assert keeping_scale(histogram(spread(60))[None], "float8_e4m3fn") is None


def test_the_scale_is_one_where_nothing_is_lost():
    assert keeping_scale(histogram(np.ones(10))[None], "float16") == 1


@pytest.mark.parametrize("factor", [1.0, 2.0**-40, 2.0**-100])
def test_squares_from_the_histogram(factor):
    """Mantissas of a Gaussian do not lie evenly: a few percent."""
    x = np.random.default_rng(3).standard_normal((2, 50_000)) * np.array([[1.0], [factor]])
    logs = log_squares(np.stack([histogram(row) for row in x]))
    assert logs[1] - logs[0] == pytest.approx(2 * math.log(factor), abs=0.05)
    assert log_squares(np.zeros(BINS)) == -math.inf
