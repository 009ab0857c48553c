"""Random inputs with random labels: signal propagation without a dataset's structure."""

import math

import numpy as np

from research.data.dataset import Dataset


def make_noise(shape: list[int], classes: int, examples: int, limit: int | None) -> Dataset:
    """Standard normal inputs, uniform labels; the same for every run of these sizes."""
    generator = np.random.default_rng(0)
    features = math.prod(shape)
    x = generator.standard_normal((2 * examples, features), np.float32)
    y = generator.integers(classes, size=2 * examples, dtype=np.int32)
    train = slice(None, min(examples, limit or examples))
    held_out = slice(examples, None)
    return Dataset(
        "noise",
        "1.0.0",
        "train",
        x[train],
        y[train],
        x[held_out],
        y[held_out],
        tuple(shape),
        classes,
        0.0,
        1.0,
    )
