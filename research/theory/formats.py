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

LOWEST = -149
HIGHEST = 127
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
    midway = float(info.max) / 2.0**highest + 2.0 ** -(
        info.nmant + 1
    )  # between the greatest and what comes next
    return Format(
        name, int(info.minexp), int(info.minexp) - info.nmant - 1, highest + float(np.log2(midway))
    )


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


def read_counts(
    found: Mapping[str, Mapping[str, np.ndarray]], compute: str, narrowest: str
) -> dict[str, np.ndarray]:
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
        columns[f"{name}_subnormal"] = histogram[
            ..., FORMATS[format_].least_normal > EXPONENTS
        ].sum(-1)
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


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_WEIGHTS /= _WEIGHTS.sum()
_GRID = (np.arange(2000) + 0.5) / 250  # standard deviations of a Gaussian, to 8
_DENSITY = np.exp(-(_GRID**2) / 2)
_MEAN_LOG = -(np.euler_gamma + np.log(2)) / np.log(4)  # of log₂|N(0, 1)|
_VARIANCE_LOG = np.pi**2 / (8 * np.log(2) ** 2)


def lost_on_the_way(histograms: np.ndarray, format_: str, scale: float = 1.0) -> np.ndarray:
    """``lost`` at each layer of a plain network that rounds in every layer, from its histograms [N+1, BINS] in float32.

    A layer's gradient is taken as Gaussian with a size for each example: log-normal over the examples, as wide as the
    histogram is wider than a Gaussian's, and in one order in all layers. Rounding changes the mean square of what a
    layer passes on, upward where elements about half the least number become that number, and downward where they
    become 0. The gradient of the layers below, a sum of many such elements, is that of float32 times the root of all
    changes above it, for large examples other ones than for small. What these Gaussians lose more than in one
    rounding is added to ``lost``. Weights and activations are taken as exact.
    """
    from scipy.special import erf  # a third of a second to import

    limits = FORMATS[format_]
    change = np.zeros(len(_NODES))
    flushed = lost(histograms, format_, scale)
    for layer in reversed(np.flatnonzero(np.isfinite(flushed))):
        sizes = _sizes(histograms[layer]) + np.log2(scale)
        once, again = (
            _WEIGHTS @ erf(np.exp2(limits.flush - each) / np.sqrt(2))
            for each in (sizes, sizes + change)
        )
        kept = (
            min(1.0, (1 - again) / (1 - once)) if once < 1 else 0.0
        )  # of what the Gaussians do not tell
        flushed[layer] = np.clip(again + kept * (flushed[layer] - once), 0, 1)
        with np.errstate(divide="ignore"):
            change += np.log2(_gains(sizes + change, limits)) / 2
    return flushed


def _sizes(histogram: np.ndarray) -> np.ndarray:
    """log₂ of the root mean squares at the nodes of a log-normal population of Gaussians, by two moments of log₂|x|."""
    shares = np.asarray(histogram, np.float64) / np.sum(histogram)
    middles = EXPONENTS + 0.5
    mean = shares @ middles
    variance = (
        shares @ (middles - mean) ** 2 - 1 / 12
    )  # of the logarithms themselves, which lie evenly in a bin
    return mean - _MEAN_LOG + np.sqrt(max(0.0, variance - _VARIANCE_LOG)) * _NODES


def _gains(sizes: np.ndarray, limits: Format) -> np.ndarray:
    """The mean square of rounded Gaussian numbers over theirs, where their log₂ rms is ``sizes``; subnormals kept."""
    # of the others no element in a million is left
    gains = np.zeros(len(sizes))
    some = sizes > limits.flush - 5
    x = np.exp2(sizes[some])[:, None] * _GRID
    unit = np.exp2(
        np.maximum(np.floor(np.log2(x)), limits.least_normal)
        - (limits.least_normal - limits.flush - 1)
    )
    gains[some] = (np.round(x / unit) * unit) ** 2 @ _DENSITY / (x**2 @ _DENSITY)
    return gains
