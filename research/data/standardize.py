"""Inputs with mean 0 and standard deviation 1, computed in float64 before they are cast."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

MAX_BLOCK_ELEMENTS = 2**22  # that are converted to float64 at once
MAX_SAMPLE_ROWS = 2048  # that are looked at to find out what a cast loses
FAINT_SPREAD = 1e-3  # in standard deviations of all inputs
LOWER_QUANTILE = 0.01
LEAST_LEFT_OUT = 1.5  # examples at either end, so that one of a few is left out
FLOAT32_BYTES = 4  # shorter numbers differ in float32 if they differ at all


@dataclass(frozen=True)
class Standardization:
    """The network reads (row - offset)·scale.

    Attributes:
        offset: One number, or one for each feature [1, features].
        scale: Factor after the offset, with the same shape.
        is_constant: Whether no input varies; then the scale is 1.
    """

    offset: float | np.ndarray
    scale: float | np.ndarray
    is_constant: bool

    def with_moments(self, mean: float, deviation: float) -> "Standardization":
        """The same for inputs of another mean and standard deviation than 0 and 1.

        Args:
            mean: Mean of the standardized rows.
            deviation: Their standard deviation.
        """
        scale = self.scale * deviation
        offset = self.offset - mean / scale
        return Standardization(offset, scale, self.is_constant)

    def apply(self, rows: np.ndarray, dtype: type[np.floating] = np.float64) -> np.ndarray:
        """Standardized rows [n, features], computed in float64 and then cast."""
        result = np.empty(rows.shape, dtype)
        start = 0
        for block in _iter_float64_blocks(rows):
            stop = start + len(block)
            result[start:stop] = (block - self.offset) * self.scale
            start = stop
        return result

    def mean_square(self, rows: np.ndarray) -> float:
        """The mean square of an element of the standardized rows."""
        square_sums = []
        for block in _iter_float64_blocks(rows):
            inputs = (block - self.offset) * self.scale
            square_sums.append(float((inputs**2).sum()))
        return sum(square_sums) / rows.size


NOT_STANDARDIZED = Standardization(offset=0.0, scale=1.0, is_constant=False)


def fit_standardization(rows: np.ndarray) -> Standardization:
    """The offset and scale that give the rows mean 0 and standard deviation 1 over all elements."""
    elements = rows.reshape(-1, 1)
    offset, scale, is_constant = _fit_columns(elements)
    return Standardization(offset.item(), scale.item(), is_constant.item())


def fit_standardization_per_feature(rows: np.ndarray) -> Standardization:
    """The offsets and scales [1, features] that give each feature mean 0 and standard deviation 1.

    A feature that has the same value in all rows is not scaled.
    """
    offset, scale, is_constant = _fit_columns(rows)
    return Standardization(offset, scale, bool(is_constant.all()))


def find_lost_features(rows: np.ndarray, standardization: Standardization) -> np.ndarray:
    """Numbers of the features that vary, but no longer after they are standardized in float32.

    Examples at both ends of a feature are ignored, so a feature counts as lost too if only a
    few extreme values still differ from the others. At most ``MAX_SAMPLE_ROWS`` rows are looked at.
    """
    if rows.dtype.itemsize < FLOAT32_BYTES:
        return np.zeros(0, int)
    sample = sample_rows(rows).astype(np.float64)
    inputs = standardization.apply(sample, np.float32)
    is_lost = (_spread(sample) > 0) & (_spread(inputs) == 0)
    return np.flatnonzero(is_lost)


def find_faint_features(rows: np.ndarray, standardization: Standardization) -> np.ndarray:
    """Numbers of the features that vary, but hardly once they are standardized.

    Examples at both ends of a feature are ignored, as in ``find_lost_features``.
    """
    if rows.dtype == np.uint8:  # whose numbers differ by a factor of 255 at most
        return np.zeros(0, int)
    inputs = standardization.apply(sample_rows(rows))
    spread = _spread(inputs)
    return np.flatnonzero((spread > 0) & (spread < FAINT_SPREAD * inputs.std()))


def sample_rows(rows: np.ndarray) -> np.ndarray:
    """At most ``MAX_SAMPLE_ROWS`` of the rows, at equal distances."""
    step = -(-len(rows) // MAX_SAMPLE_ROWS)
    return rows[::step]


def _spread(rows: np.ndarray) -> np.ndarray:
    """The distance [features] between an upper and a lower quantile, which are values of rows."""
    left_out = min(0.5, max(LOWER_QUANTILE, LEAST_LEFT_OUT / len(rows)))
    quantiles = [left_out, 1 - left_out]
    lower, upper = np.quantile(rows, quantiles, axis=0, method="inverted_cdf")
    return upper - lower


def _fit_columns(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offset and scale [1, columns], and which columns are constant, of rows [n, columns]."""
    smallest = rows.min(axis=0, keepdims=True)
    largest = rows.max(axis=0, keepdims=True)
    is_constant = smallest == largest
    is_float = rows.dtype.kind == "f"
    origin = smallest.astype(np.float64) if is_float else np.zeros(smallest.shape)
    unit = _power_of_two_above(largest - origin) if is_float else np.ones(smallest.shape)

    def iter_distances() -> Iterator[np.ndarray]:
        """Whole numbers as they are. Real numbers from the smallest one, in powers of two.

        These distances are exact where those from zero would be rounded, and their squares stay
        in the range of float64.
        """
        for block in _iter_float64_blocks(rows):
            yield (block - origin) / unit if is_float else block

    total = np.zeros(smallest.shape)
    for distances in iter_distances():
        total += distances.sum(axis=0, keepdims=True)
    mean = total / len(rows)
    square_total = np.zeros(smallest.shape)
    for distances in iter_distances():
        squares = (distances - mean) ** 2
        square_total += squares.sum(axis=0, keepdims=True)
    deviation = np.sqrt(square_total / len(rows)) * unit
    offset = np.where(is_constant, smallest, origin + mean * unit)
    with np.errstate(over="ignore", divide="ignore"):  # callers refuse an infinite scale
        scale = 1 / np.where(is_constant, 1, deviation)
    return offset, scale, is_constant


def _power_of_two_above(numbers: np.ndarray) -> np.ndarray:
    _, exponents = np.frexp(numbers)
    return np.ldexp(1.0, np.maximum(exponents, -1000))


def _iter_float64_blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of rows as float64. All of CIFAR-10 at once would take a gigabyte."""
    num_columns = math.prod(rows.shape[1:])
    block_size = max(1, MAX_BLOCK_ELEMENTS // num_columns)
    for start in range(0, len(rows), block_size):
        block = rows[start : start + block_size]
        yield block.astype(np.float64)
