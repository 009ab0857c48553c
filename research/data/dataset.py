"""A dataset in memory: flat rows and labels, and how to turn rows into network inputs."""

import dataclasses
import hashlib
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and held-out examples as flat rows.

    ``x`` [n, features] (any number format) and ``y`` [n] int32, likewise ``eval_x`` and ``eval_y``. Inputs to the
    network are (row - offset)·scale.
    """

    name: str
    version: str
    split: str
    x: np.ndarray
    y: np.ndarray
    eval_x: np.ndarray
    eval_y: np.ndarray
    shape: tuple[int, ...]
    classes: int
    offset: float
    scale: float

    @property
    def mean_square(self) -> float:
        """The mean square of an input element: q of the input layer in mean-field theory."""
        return float(np.mean(((self.x.astype(np.float64) - self.offset) * self.scale) ** 2))

    def fingerprint(self) -> str:
        """A hash of all examples and labels, in order."""
        digest = hashlib.sha256()
        for array in (self.x, self.y, self.eval_x, self.eval_y):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def arrays(self) -> dict[str, np.ndarray]:
        """What the program reads, by the names it reads it under."""
        numbers = {"offset": np.asarray(self.offset, np.float32), "scale": np.asarray(self.scale, np.float32)}
        return {"x": self.x, "y": self.y, "eval_x": self.eval_x, "eval_y": self.eval_y} | numbers


def standardised(rows: np.ndarray) -> tuple[float, float]:
    """The offset and scale that give the rows mean 0 and standard deviation 1 over all elements."""
    wide = rows.astype(np.float64)
    return float(wide.mean()), 1 / max(float(wide.std()), math.ulp(1.0))
