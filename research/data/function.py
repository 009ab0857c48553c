"""y = f(x) to be met by a network: x uniform between -1 and 1."""

from collections.abc import Callable

import numpy as np

from research.data.dataset import Dataset, Known, chosen
from research.data.settings import Data

FUNCTIONS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {  # inputs, and f of x [n, inputs]
    "sine": (1, lambda x: np.sin(2 * np.pi * x[:, 0])),
    "step": (1, lambda x: np.where(x[:, 0] > 0, 1.0, 0.0)),
    "polynomial": (1, lambda x: 4 * x[:, 0] ** 3 - 3 * x[:, 0]),  # Chebyshev's third: between -1 and 1 too
    "surface": (2, lambda x: np.sin(np.pi * x[:, 0]) * np.cos(np.pi * x[:, 1])),
}


def describe(data: Data) -> Known:
    """Both splits have as many examples."""
    inputs, _ = FUNCTIONS[data.function.name]
    return Known({"train": data.examples, "test": data.examples}, (inputs,), real=True)


def load_function(data: Data) -> Dataset:
    """Draws that are the same for every run of these sizes; ``data.noise`` is added to training targets alone."""
    known, (inputs, f) = describe(data), FUNCTIONS[data.function.name]

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(list(known.splits).index(split))
        x = generator.uniform(-1, 1, (data.examples, inputs))
        noise = data.noise * generator.standard_normal(data.examples) if split == "train" else 0
        return x.astype(np.float32), (f(x) + noise).astype(np.float32)[:, None]

    columns = chosen(data, known.splits, read)
    return Dataset("function", data.function.name, data.split, *columns, known.shape, 1, 0.0, 1.0)
