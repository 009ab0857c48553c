"""Inputs with mean 0 and standard deviation 1, computed in float64 before they are cast."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

MAX_BLOCK_ELEMENTS = 2**22  # that are converted to float64 at once
MAX_SAMPLE_ROWS = 2048  # that are looked at to find out what a cast loses
MIN_SAMPLE_ROWS = 64  # also of large images
FAINT_SPREAD = 1e-3  # in standard deviations of all inputs
LOWER_QUANTILE = 0.01
LEAST_LEFT_OUT = 1.5  # examples at either end, so that one of a few is left out
LEAST_EXPONENT = -1000  # of the unit of a column whose numbers are almost the same
FLOAT32_BYTES = 4  # shorter whole numbers differ in float32 if they differ at all


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
            result[start:stop] = self._apply_to_block(block)
            start = stop
        return result

    def mean_square(self, rows: np.ndarray) -> float:
        """The mean square of an element of the standardized rows."""
        square_sum = 0.0
        for block in _iter_float64_blocks(rows):
            inputs = self._apply_to_block(block)
            square_sum += float(np.sum(inputs**2))
        return square_sum / rows.size

    def _apply_to_block(self, block: np.ndarray) -> np.ndarray:
        return (block - self.offset) * self.scale


NOT_STANDARDIZED = Standardization(offset=0.0, scale=1.0, is_constant=False)


def fit_standardization(rows: np.ndarray) -> Standardization:
    """The offset and scale that give the rows mean 0 and standard deviation 1 over all elements."""
    elements = rows.reshape(-1, 1)
    columns = _fit_columns(elements)
    return Standardization(
        offset=columns.offset.item(),
        scale=columns.scale.item(),
        is_constant=columns.is_constant.item(),
    )


def fit_standardization_per_feature(rows: np.ndarray) -> Standardization:
    """The offsets and scales [1, features] that give each feature mean 0 and standard deviation 1.

    A feature that has the same value in all rows is not scaled.
    """
    columns = _fit_columns(rows)
    return Standardization(
        offset=columns.offset,
        scale=columns.scale,
        is_constant=bool(columns.is_constant.all()),
    )


def find_lost_features(
    rows: np.ndarray,
    standardization: Standardization,
    dtype: np.dtype,
) -> np.ndarray:
    """Numbers of the features that vary, but no longer after they are standardized and cast.

    Examples at both ends of a feature are ignored, so a feature counts as lost too if only a
    few extreme values still differ from the others. At most ``MAX_SAMPLE_ROWS`` rows are looked at.

    Args:
        rows: The rows [n, features].
        standardization: How they are standardized.
        dtype: What they are cast to.
    """
    is_whole = rows.dtype.kind != "f"
    if is_whole and rows.dtype.itemsize < min(dtype.itemsize, FLOAT32_BYTES):
        return np.zeros(0, int)
    sample = sample_rows(rows).astype(np.float64)
    inputs = standardization.apply(sample)
    with np.errstate(over="ignore"):
        inputs = inputs.astype(dtype).astype(np.float64)
    return np.flatnonzero(_varies(sample) & ~_varies(inputs))


def find_faint_features(rows: np.ndarray, standardization: Standardization) -> np.ndarray:
    """Numbers of the features that vary, but hardly or not at all once they are standardized.

    Examples at both ends of a feature are ignored, as in ``find_lost_features``.
    """
    if rows.dtype == np.uint8:  # whose numbers differ by a factor of 255 at most
        return np.zeros(0, int)
    sample = sample_rows(rows).astype(np.float64)
    inputs = standardization.apply(sample)
    is_faint = _spread(inputs) < FAINT_SPREAD * inputs.std()
    return np.flatnonzero(_varies(sample) & is_faint)


def sample_rows(rows: np.ndarray) -> np.ndarray:
    """At most ``MAX_SAMPLE_ROWS`` of the rows, fewer of large images, at equal distances."""
    num_columns = math.prod(rows.shape[1:])
    num_fitting = max(MIN_SAMPLE_ROWS, MAX_BLOCK_ELEMENTS // num_columns)
    step = math.ceil(len(rows) / min(MAX_SAMPLE_ROWS, num_fitting))
    return rows[::step]


def _varies(rows: np.ndarray) -> np.ndarray:
    """Whether an upper and a lower quantile of each feature differ [features]."""
    lower, upper = _quantiles(rows)
    return lower != upper


def _spread(rows: np.ndarray) -> np.ndarray:
    """The distance [features] between an upper and a lower quantile."""
    lower, upper = _quantiles(rows)
    return upper - lower


def _quantiles(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A lower and an upper quantile of each feature [features], which are values of the rows."""
    left_out = max(LOWER_QUANTILE, LEAST_LEFT_OUT / len(rows))
    left_out = min(left_out, 0.5)
    quantiles = [left_out, 1 - left_out]
    lower, upper = np.quantile(rows, quantiles, axis=0, method="inverted_cdf")
    return lower, upper


@dataclass(frozen=True)
class _Columns:
    """Offset and scale [1, columns] of each column, and which columns are constant."""

    offset: np.ndarray
    scale: np.ndarray
    is_constant: np.ndarray


@dataclass(frozen=True)
class _Distances:
    """The numbers of rows [n, columns] as (number - origin) / unit, in float64.

    Distances from a column's smallest number, in powers of two, are exact where the numbers
    themselves would be rounded, and their squares stay in the range of float64.

    Attributes:
        rows: The rows.
        origin: What is subtracted from each column [1, columns].
        unit: What each column is divided by [1, columns].
    """

    rows: np.ndarray
    origin: np.ndarray
    unit: np.ndarray

    def blocks(self) -> Iterator[np.ndarray]:
        """The distances of some rows after the other."""
        is_whole = self.rows.dtype.kind != "f"
        for block in _iter_float64_blocks(self.rows):
            # Whole numbers have origin 0 and unit 1. Large arrays of bytes take half the time so.
            yield block if is_whole else (block - self.origin) / self.unit

    def mean(self) -> np.ndarray:
        """The mean of each column [1, columns]."""
        total = np.zeros(self.origin.shape)
        for distances in self.blocks():
            total += distances.sum(axis=0, keepdims=True)
        return total / len(self.rows)

    def deviation(self, mean: np.ndarray) -> np.ndarray:
        """The standard deviation of each column [1, columns], given its mean."""
        square_total = np.zeros(self.origin.shape)
        for distances in self.blocks():
            squares = (distances - mean) ** 2
            square_total += squares.sum(axis=0, keepdims=True)
        variance = square_total / len(self.rows)
        return np.sqrt(variance)


def _fit_columns(rows: np.ndarray) -> _Columns:
    """Standardizes each column of rows [n, columns] by itself; constant ones are not scaled."""
    smallest = rows.min(axis=0, keepdims=True)
    largest = rows.max(axis=0, keepdims=True)
    is_constant = smallest == largest
    distances = _measure_distances(rows, smallest, largest)
    mean = distances.mean()
    deviation = distances.deviation(mean) * distances.unit
    center = distances.origin + mean * distances.unit
    offset = np.where(is_constant, smallest, center)
    with np.errstate(over="ignore", divide="ignore"):  # callers refuse an infinite scale
        scale = 1 / np.where(is_constant, 1, deviation)
    return _Columns(offset, scale, is_constant)


def _measure_distances(
    rows: np.ndarray,
    smallest: np.ndarray,
    largest: np.ndarray,
) -> _Distances:
    """Whole numbers as they are; real numbers from the smallest one of their column.

    Args:
        rows: The rows [n, columns].
        smallest: The smallest number of each column [1, columns].
        largest: The largest number of each column [1, columns].
    """
    if rows.dtype.kind == "f":
        origin = smallest.astype(np.float64)
        unit = _power_of_two_above(largest - origin)
        return _Distances(rows, origin, unit)
    shape = smallest.shape
    return _Distances(rows, origin=np.zeros(shape), unit=np.ones(shape))


def _power_of_two_above(numbers: np.ndarray) -> np.ndarray:
    _, exponents = np.frexp(numbers)
    exponents = np.maximum(exponents, LEAST_EXPONENT)
    return np.ldexp(1.0, exponents)


def _iter_float64_blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of rows as float64. All of CIFAR-10 at once would take a gigabyte."""
    num_columns = math.prod(rows.shape[1:])
    block_size = max(1, MAX_BLOCK_ELEMENTS // num_columns)
    for start in range(0, len(rows), block_size):
        block = rows[start : start + block_size]
        yield block.astype(np.float64)
