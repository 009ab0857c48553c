"""An array whose axes have names and coordinates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from research.config.suggestions import format_suggestion


@dataclass(frozen=True)
class NamedArray:
    """Numbers along named axes.

    Attributes:
        name: what the numbers are.
        values: the numbers, one axis for each name; NaN where there is none.
        axes: the names of the axes.
        coordinates: for each axis the labels of its entries.
    """

    name: str
    values: np.ndarray
    axes: tuple[str, ...]
    coordinates: Mapping[str, Sequence[Any]]

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self.values.shape

    def select(self, **labels: Any) -> "NamedArray":
        """The part at one label of some axes, which then are gone: ``select(step=0)``.

        Raises:
            ValueError: there is no such axis or label.
        """
        values = self.values
        axes = list(self.axes)
        for axis, label in labels.items():
            if axis not in axes:
                hint = format_suggestion(axis, self.axes)
                raise ValueError(f"{self.name} has no axis {axis}{hint} ({', '.join(self.axes)})")
            known = list(self.coordinates[axis])
            if label not in known:
                raise ValueError(f"{axis} of {self.name} has no entry {label}")
            values = np.take(values, known.index(label), axis=axes.index(axis))
            axes.remove(axis)
        coordinates = {axis: self.coordinates[axis] for axis in axes}
        return NamedArray(self.name, values, tuple(axes), coordinates)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The numbers, for NumPy's functions."""
        return np.array(self.values, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        lengths = [f"{axis}: {len(self.coordinates[axis])}" for axis in self.axes]
        return f"NamedArray({self.name}, {', '.join(lengths)})"
