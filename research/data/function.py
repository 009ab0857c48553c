"""y = f(x) to be met by a network: x uniform between -1 and 1, or in training on a grid."""

import math
from collections.abc import Callable

import numpy as np

from research.config.data_options import Data
from research.data.dataset import Dataset, Known, chosen

FUNCTIONS: dict[
    str, tuple[int, Callable[[np.ndarray], np.ndarray]]
] = {  # inputs, and f of x [n, inputs]
    "sine": (1, lambda x: np.sin(2 * np.pi * x[:, 0])),
    "step": (1, lambda x: np.where(x[:, 0] > 0, 1.0, 0.0)),
    "polynomial": (
        1,
        lambda x: 4 * x[:, 0] ** 3 - 3 * x[:, 0],
    ),  # Chebyshev's third: between -1 and 1 too
    "surface": (2, lambda x: np.sin(np.pi * x[:, 0]) * np.cos(np.pi * x[:, 1])),
}


def describe(data: Data) -> Known:
    """Both splits have as many examples.

    Raises:
        ValueError: they are to be a grid, and are not as many.
    """
    inputs, _ = FUNCTIONS[data.function.name]
    if data.grid and (side := _side(data.examples, inputs)) ** inputs != data.examples:
        near = f"{side**inputs} or {(side + 1) ** inputs}"
        raise ValueError(
            f"data.examples must be n^{inputs} where data.grid is true: {near}, say, got {data.examples}"
        )
    return Known({"train": data.examples, "test": data.examples}, (inputs,), real=True)


def load_function(data: Data) -> Dataset:
    """Draws that are the same for every run of these sizes; ``data.noise`` is added to training targets alone."""
    known = describe(data)
    (inputs, f) = FUNCTIONS[data.function.name]

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(list(known.splits).index(split))
        x = generator.uniform(-1, 1, (data.examples, inputs))
        x = _grid(data.examples, inputs) if data.grid and split == "train" else x
        noise = data.noise * generator.standard_normal(data.examples) if split == "train" else 0
        return x.astype(np.float32), (f(x) + noise).astype(np.float32)[:, None]

    columns = chosen(data, known.splits, read)
    return Dataset("function", data.function.name, data.split, *columns, known.shape, 1, 0.0, 1.0)


def _side(examples: int, inputs: int) -> int:
    return math.floor(examples ** (1 / inputs) + 1e-9)


def _grid(examples: int, inputs: int) -> np.ndarray:
    """From -1 to 1 in every input, the last running fastest: [n, inputs]."""
    axes = [np.linspace(-1, 1, _side(examples, inputs))] * inputs
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, inputs)
