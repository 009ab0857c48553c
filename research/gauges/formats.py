"""What a number format does to a gradient, read from the histogram of its exponents: nothing is trained.

A histogram [..., BINS] holds, from ``LOWEST`` to ``HIGHEST``, the fraction of all elements with ⌊log₂|x|⌋ = e; zeros
and what is not finite make up the rest. A power of two as loss scale shifts it by whole bins, and half the least
subnormal number of every format lies at the edge of a bin: what one rounding flushes is predicted exactly, but for
elements at the limit itself. A run rounds in every layer on its way. That a layer's gradient is that of float32 until
it is rounded there is an assumption, good while what is lost is small beside what is kept.
"""

import dataclasses
from collections.abc import Mapping

import ml_dtypes
import numpy as np

LOWEST, HIGHEST = -149, 127
BINS = HIGHEST - LOWEST + 1
EXPONENTS = np.arange(LOWEST, HIGHEST + 1)
_TYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}


@dataclasses.dataclass(frozen=True)
class Format:
    """The limits of a number format as exponents of two.

    ``least_normal`` = log₂ of the least normal number. ``flush`` = log₂ of half the least subnormal one: what is
    smaller is rounded to 0. ``overflow`` = log₂ of what is rounded beyond the greatest number.
    """

    name: str
    least_normal: int
    flush: int
    overflow: float


def _format(name: str) -> Format:
    info = ml_dtypes.finfo(_TYPES[name])
    highest = int(info.maxexp) - 1
    midway = float(info.max) / 2.0**highest + 2.0 ** -(info.nmant + 1)  # between the greatest and what comes next
    return Format(name, int(info.minexp), int(info.minexp) - info.nmant - 1, highest + float(np.log2(midway)))


FORMATS = {name: _format(name) for name in _TYPES}


def lost(histogram: np.ndarray, format_: str, scale: float = 1.0) -> np.ndarray:
    """The fraction of the nonzero elements that rounding to ``format_`` turns into 0 under the loss scale ``scale``.

    Within a bin that the limit cuts, elements are taken to lie evenly. NaN where no element is nonzero and finite.
    """
    below = _below(FORMATS[format_].flush - np.log2(scale))
    return _share(histogram, below)


def overflowing(histogram: np.ndarray, format_: str, scale: float = 1.0) -> np.ndarray:
    """The fraction of the nonzero elements that ``format_`` cannot hold under the loss scale ``scale``; as ``lost``."""
    return _share(histogram, 1 - _below(FORMATS[format_].overflow - np.log2(scale)))


def keeping_scale(histogram: np.ndarray, format_: str, keep: float = 0.99) -> float | None:
    """The least power of two, from 1, as loss scale with which ``format_`` keeps ``keep`` of every row.

    None where none does: the nonzero elements of ``histogram`` [N, BINS] span more than the format.
    """
    for k in range(HIGHEST):
        if np.nanmax(lost(histogram, format_, 2.0**k), initial=0) <= 1 - keep:
            fits = np.nanmax(overflowing(histogram, format_, 2.0**k), initial=0) == 0
            return 2.0**k if fits else None
    return None


def _below(limit: float) -> np.ndarray:
    """Of each bin [2^e, 2^(e+1)), the part of its elements below 2^limit."""
    return np.clip(np.exp2(np.minimum(limit - EXPONENTS, 1.0)) - 1, 0, 1)


def _share(histogram: np.ndarray, weights: np.ndarray) -> np.ndarray:
    histogram = np.asarray(histogram, np.float64)
    whole = histogram.sum(-1)
    return np.divide(histogram @ weights, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def log_squares(histogram: np.ndarray) -> np.ndarray:
    """Logarithm of the mean square, up to a constant, for mantissas evenly in [1, 2); -inf where all is zero."""
    histogram = np.asarray(histogram, np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(histogram @ np.exp2(2.0 * EXPONENTS)))


def read_counts(found: Mapping[str, Mapping[str, np.ndarray]], compute: str, narrowest: str) -> dict[str, np.ndarray]:
    """Gauges by name from counts [..., BINS + 2], all as fractions of all elements; the gradients by ``compute``.

    ``signal_exponent`` [..., BINS], ``signal_zero``, ``signal_subnormal``, ``signal_nonfinite``, and the same of
    ``grad``. Where there are counts in float32 too, ``signal_exponent_float32`` and ``signal_lost``: of the elements
    that are not zero there, the fraction that is zero here.
    """
    columns = {}
    for name, format_ in (("signal", narrowest), ("grad", compute)):
        histogram, zero, nonfinite = _fractions(found["own"][name])
        columns[f"{name}_exponent"] = histogram
        columns[f"{name}_zero"], columns[f"{name}_nonfinite"] = zero, nonfinite
        columns[f"{name}_subnormal"] = histogram[..., EXPONENTS < FORMATS[format_].least_normal].sum(-1)
        if "exact" in found:
            exact, zero_before, _ = _fractions(found["exact"][name])
            alive = np.where(zero_before < 1, 1 - zero_before, np.nan)
            columns[f"{name}_exponent_float32"] = exact
            columns[f"{name}_lost"] = np.maximum(zero - zero_before, 0) / alive
    return columns


def _fractions(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = np.asarray(counts, np.float64)
    fractions = counts / counts.sum(-1, keepdims=True)
    return fractions[..., :BINS], fractions[..., BINS], fractions[..., BINS + 1]


def lost_on_the_way(histograms: np.ndarray, format_: str, scale: float = 1.0) -> np.ndarray:
    """``lost`` at each layer of a plain network that rounds in every layer, from its histograms [N+1, BINS] in float32.

    Rounding changes the mean square of what a layer passes on, upward where elements about half the least number
    become that number, and downward where they become 0. The gradient of the layers below, a sum of many such
    elements, is that of float32 times the root of all changes above it. Weights and activations are taken as exact.
    """
    flushed, factor = np.full(len(histograms), np.nan), 1.0
    for layer in reversed(range(len(histograms))):
        if factor == 0:
            flushed[: layer + 1] = 1.0
            break
        flushed[layer] = lost(histograms[layer], format_, scale * np.sqrt(factor))
        factor *= _gain(histograms[layer], format_, scale * np.sqrt(factor))
    return flushed


def _gain(histogram: np.ndarray, format_: str, scale: float) -> float:
    """The mean square of the rounded elements over that of the elements, for mantissas that lie evenly in a bin."""
    used, limits = histogram > 0, FORMATS[format_]
    within = 1 + (np.arange(64) + 0.5) / 64
    x = scale * np.exp2(EXPONENTS[used].astype(float))[:, None] * within
    unit = np.exp2(np.maximum(np.floor(np.log2(x)), limits.least_normal) - (limits.least_normal - limits.flush - 1))
    squares = [histogram[used] @ np.mean(y * y, axis=1) for y in (np.round(x / unit) * unit, x)]
    return squares[0] / squares[1] if squares[1] else 0.0
