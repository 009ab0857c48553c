"""What a number format does to a gradient, predicted from the histogram of its exponents.

A histogram [..., BINS] holds, for each exponent e from ``LOWEST`` to ``HIGHEST``, the fraction of
all elements x with ⌊log₂|x|⌋ = e. Zeros and non-finite elements are in no bin, so a histogram sums
to at most 1.

A loss scale that is a power of two shifts a histogram by whole bins, and half the smallest
subnormal number of every format lies on the edge of a bin. ``underflow_fraction`` is therefore
exact for one rounding, except for elements that lie on the limit itself. A run rounds in every
layer; ``underflow_fraction`` assumes that a layer's gradient has its float32 value until it is
rounded there, which is accurate while most of the gradient survives. ``layerwise_underflow``
includes the roundings of the layers above.
"""

import dataclasses
from collections.abc import Mapping

import ml_dtypes
import numpy as np

LOWEST = -149
HIGHEST = 127
BINS = HIGHEST - LOWEST + 1
EXPONENTS = np.arange(LOWEST, HIGHEST + 1)

Histogram = np.ndarray  # [..., BINS]

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
    """The limits of a number format, each but ``largest`` as a logarithm to base 2.

    ``smallest_normal``: of the smallest normal number. ``underflow``: of half the smallest
    subnormal number; smaller numbers are rounded to 0. ``overflow``: of the number from which on
    the format rounds to infinity or NaN. ``largest``: the largest finite number itself.
    """

    name: str
    smallest_normal: int
    underflow: int
    overflow: float
    largest: float


def _make_format(name: str) -> Format:
    info = ml_dtypes.finfo(_TYPES[name])
    smallest_normal = int(info.minexp)
    largest_exponent = int(info.maxexp) - 1
    largest_mantissa = float(info.max) / 2.0**largest_exponent
    # Numbers overflow from the midpoint between the largest number and the one that would follow
    # it.
    half_spacing = 2.0 ** -(info.nmant + 1)
    midpoint = largest_mantissa + half_spacing
    return Format(
        name=name,
        smallest_normal=smallest_normal,
        underflow=smallest_normal - info.nmant - 1,
        overflow=largest_exponent + float(np.log2(midpoint)),
        largest=float(info.max),
    )


FORMATS = {name: _make_format(name) for name in _TYPES}


def option_name(format_: str) -> str:
    """A format as ``precision`` names it: ``float8_e4m3`` for the type ``float8_e4m3fn``."""
    return format_.removesuffix("fn")


def underflow_fraction(
    histogram: Histogram,
    format_: str,
    scale: float = 1.0,
) -> np.ndarray:
    """The fraction of the nonzero elements that rounding to a format turns into 0.

    Elements are taken as evenly distributed within a bin that the limit cuts.

    Args:
        histogram: fractions [..., BINS] of the elements by exponent.
        format_: a name in ``FORMATS``.
        scale: the loss scale that multiplies the elements before they are rounded.

    Returns:
        The fractions [...]; NaN where no element is nonzero and finite.
    """
    limits = FORMATS[format_]
    rounds_to_zero = _fraction_below(limits.underflow - np.log2(scale))
    return _weighted_fraction(histogram, rounds_to_zero)


def overflow_fraction(
    histogram: Histogram,
    format_: str,
    scale: float = 1.0,
) -> np.ndarray:
    """The fraction of the nonzero elements that are too large for a format.

    Args:
        histogram: fractions [..., BINS] of the elements by exponent.
        format_: a name in ``FORMATS``.
        scale: the loss scale that multiplies the elements before they are rounded.

    Returns:
        The fractions [...]; NaN where no element is nonzero and finite.
    """
    limits = FORMATS[format_]
    fits = _fraction_below(limits.overflow - np.log2(scale))
    return _weighted_fraction(histogram, 1 - fits)


def smallest_safe_loss_scale(
    histogram: Histogram,
    format_: str,
    preserved: float = 0.99,
) -> float | None:
    """The smallest loss scale that preserves enough of every layer's nonzero elements.

    Args:
        histogram: fractions [N, BINS] of the elements by exponent.
        format_: a name in ``FORMATS``.
        preserved: the fraction of the nonzero elements of each row that must not become 0.

    Returns:
        A power of two, 1 or larger; None where every such scale would make elements overflow.
    """
    for power in range(HIGHEST):
        scale = 2.0**power
        underflow = underflow_fraction(histogram, format_, scale)
        if _largest(underflow) <= 1 - preserved:
            overflow = overflow_fraction(histogram, format_, scale)
            return scale if _largest(overflow) == 0 else None
    return None


def _largest(fractions: np.ndarray) -> float:
    return np.nanmax(fractions, initial=0)


def _fraction_below(log2_limit: float) -> np.ndarray:
    """The fraction of each bin [2^e, 2^(e+1)) that lies below the limit; [BINS]."""
    distance = np.minimum(log2_limit - EXPONENTS, 1.0)
    fraction = np.exp2(distance) - 1
    return np.clip(fraction, 0, 1)


def _weighted_fraction(histogram: Histogram, weights: np.ndarray) -> np.ndarray:
    """The mean of ``weights`` [BINS] over the elements of each histogram; NaN for an empty one."""
    histogram = np.asarray(histogram, np.float64)
    total = histogram.sum(-1)
    weighted = histogram @ weights
    means = np.full(total.shape, np.nan)
    return np.divide(weighted, total, out=means, where=total > 0)


def log_mean_square(histogram: Histogram) -> np.ndarray:
    """The logarithm of the mean square of all elements, up to a constant.

    It is -inf where all elements are zero. The constant is the same for all histograms whose
    mantissas are distributed evenly in [1, 2).
    """
    histogram = np.asarray(histogram, np.float64)
    squares = np.exp2(2.0 * EXPONENTS)
    with np.errstate(divide="ignore"):
        logarithm = np.log(histogram @ squares)
    return np.asarray(logarithm)


@dataclasses.dataclass(frozen=True)
class _Fractions:
    """Fractions of all elements: by exponent [..., BINS], zero [...] and not finite [...]."""

    histogram: Histogram
    zero: np.ndarray
    nonfinite: np.ndarray


def _to_fractions(counts: np.ndarray) -> _Fractions:
    """Divides counts [..., BINS + 2] by the number of all elements."""
    counts = np.asarray(counts, np.float64)
    total = counts.sum(-1, keepdims=True)
    fractions = counts / total
    return _Fractions(
        histogram=fractions[..., :BINS],
        zero=fractions[..., BINS],
        nonfinite=fractions[..., BINS + 1],
    )


def gauges_from_counts(
    counts: Mapping[str, Mapping[str, np.ndarray]],
    compute: str,
    narrowest: str,
) -> dict[str, np.ndarray]:
    """Computes the gauges of a number format from counts of exponents.

    Args:
        counts: arrays [..., BINS + 2] by ``signal``, ``grad``, ``activation`` and ``weight``: under
            ``run`` as the run computes them and, where it computes in less than float32, under
            ``float32`` in float32. The last two entries count zeros and non-finite elements.
        compute: the format of weights and their gradient.
        narrowest: the format of what layers read and of the backward signal; in one that is not in
            ``FORMATS``, such as the 4-bit format, each block has its own limits and no number
            counts as subnormal.

    Returns:
        For each of these names, such as ``signal``, as fractions of all elements:
        ``signal_exponent`` [..., BINS], ``signal_zero``, ``signal_nonfinite`` and
        ``signal_subnormal`` [...]. With counts in float32 also ``signal_exponent_float32``
        [..., BINS] and ``signal_lost`` [...]: of the elements that are nonzero in float32, the
        fraction that is zero in the run.
    """
    formats = {"signal": narrowest, "grad": compute, "activation": narrowest, "weight": compute}
    gauges = {}
    for name, format_ in formats.items():
        if name not in counts["run"]:
            continue
        run = _to_fractions(counts["run"][name])
        smallest_normal = FORMATS[format_].smallest_normal if format_ in FORMATS else LOWEST
        is_subnormal = smallest_normal > EXPONENTS
        subnormal = run.histogram[..., is_subnormal]
        gauges[f"{name}_exponent"] = run.histogram
        gauges[f"{name}_zero"] = run.zero
        gauges[f"{name}_nonfinite"] = run.nonfinite
        gauges[f"{name}_subnormal"] = subnormal.sum(-1)
        if "float32" in counts:
            exact = _to_fractions(counts["float32"][name])
            gauges[f"{name}_exponent_float32"] = exact.histogram
            gauges[f"{name}_lost"] = _lost_fraction(run.zero, exact.zero)
    return gauges


def _lost_fraction(zero: np.ndarray, zero_in_float32: np.ndarray) -> np.ndarray:
    """Of the elements that are nonzero in float32, the fraction that is zero in the run."""
    nonzero = 1 - zero_in_float32
    lost = np.maximum(zero - zero_in_float32, 0)
    return lost / np.where(zero_in_float32 < 1, nonzero, np.nan)


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_WEIGHTS /= _WEIGHTS.sum()
_GRID = (np.arange(2000) + 0.5) / 250  # standard deviations of a Gaussian, up to 8
_DENSITY = np.exp(-(_GRID**2) / 2)
_MEAN_LOG2_NORMAL = -(np.euler_gamma + np.log(2)) / np.log(4)  # E log₂|z|, z standard normal
_VARIANCE_LOG2_NORMAL = np.pi**2 / (8 * np.log(2) ** 2)  # Var log₂|z|


def layerwise_underflow(
    histograms: Histogram,
    format_: str,
    scale: float = 1.0,
) -> np.ndarray:
    """Predicts ``underflow_fraction`` at each layer of a plain network that rounds in every layer.

    The model takes each example's gradient at a layer as Gaussian. The root mean squares of these
    Gaussians are log-normal over the examples, wide enough to explain how much wider the histogram
    is than that of one Gaussian, and the examples have the same order in all layers. Rounding
    changes the mean square that a layer passes on: elements near half the smallest number become
    either that number or 0. The gradient of a layer below is a sum of many such elements, so it is
    its float32 value times the root of all these changes above it, a different factor for each
    example. The additional loss of the Gaussians, compared with one rounding, is added to
    ``underflow_fraction``. Weights and activations are taken as exact.

    Args:
        histograms: fractions [N+1, BINS] of the elements of each layer's gradient in float32.
        format_: a name in ``FORMATS``.
        scale: the loss scale.

    Returns:
        The fraction of the nonzero elements that become 0, [N+1]; NaN for a layer without nonzero
        elements.
    """
    limits = FORMATS[format_]
    log2_change = np.zeros(len(_NODES))
    fractions = underflow_fraction(histograms, format_, scale)
    is_measured = np.isfinite(fractions)
    for layer in reversed(np.flatnonzero(is_measured)):
        exact = _log2_rms_of_examples(histograms[layer]) + np.log2(scale)
        rounded = exact + log2_change
        one_rounding = _gaussian_underflow(exact, limits)
        all_roundings = _gaussian_underflow(rounded, limits)
        # The part of the loss that the Gaussians do not explain concerns only elements that survive
        # so far.
        unexplained = fractions[layer] - one_rounding
        unexplained = _survival(one_rounding, all_roundings) * unexplained
        fractions[layer] = np.clip(all_roundings + unexplained, 0, 1)
        with np.errstate(divide="ignore"):
            log2_gain = np.log2(_rounding_gain(rounded, limits))
        log2_change += log2_gain / 2
    return fractions


def _survival(one_rounding: float, all_roundings: float) -> float:
    """Of the elements that survive one rounding, the fraction that survives all roundings."""
    if one_rounding >= 1:
        return 0.0
    return min(1.0, (1 - all_roundings) / (1 - one_rounding))


def _gaussian_underflow(log2_rms: np.ndarray, limits: Format) -> float:
    """The fraction of Gaussians with these root mean squares that becomes 0, over all examples."""
    from scipy.special import erf  # this import takes a third of a second

    limit_over_rms = np.exp2(limits.underflow - log2_rms)
    return _WEIGHTS @ erf(limit_over_rms / np.sqrt(2))


def _log2_rms_of_examples(histogram: Histogram) -> np.ndarray:
    """log₂ of the examples' root mean squares at the quadrature nodes.

    They are fitted to the mean and the variance of log₂|x| in the histogram [BINS].
    """
    total = np.sum(histogram)
    fractions = np.asarray(histogram, np.float64) / total
    centres = EXPONENTS + 0.5
    mean = fractions @ centres
    deviations = centres - mean
    # Sheppard's correction: taking every element at the centre of its bin of width 1 adds 1/12.
    variance = fractions @ deviations**2 - 1 / 12
    excess_variance = max(0.0, variance - _VARIANCE_LOG2_NORMAL)
    spread = np.sqrt(excess_variance) * _NODES
    return mean - _MEAN_LOG2_NORMAL + spread


def _rounding_gain(log2_rms: np.ndarray, limits: Format) -> np.ndarray:
    """The mean square of rounded Gaussians over that of the exact ones."""
    gains = np.zeros(len(log2_rms))
    # Of smaller Gaussians not one element in a million survives.
    survives = log2_rms > limits.underflow - 5
    rms = np.exp2(log2_rms[survives])
    exact = rms[:, None] * _GRID
    rounded = _round_to_format(exact, limits)
    mean_square = exact**2 @ _DENSITY
    gains[survives] = rounded**2 @ _DENSITY / mean_square
    return gains


def _round_to_format(x: np.ndarray, limits: Format) -> np.ndarray:
    """Rounds positive numbers to a format with subnormal numbers; large numbers do not overflow."""
    mantissa_bits = limits.smallest_normal - limits.underflow - 1
    exponent = np.floor(np.log2(x))
    exponent = np.maximum(exponent, limits.smallest_normal)
    spacing = np.exp2(exponent - mantissa_bits)
    return np.round(x / spacing) * spacing
