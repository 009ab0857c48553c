"""Random inputs with random labels: signal propagation without a dataset's structure."""

import math

import numpy as np

from research.config.data_options import Data
from research.data.dataset import Dataset, Known, relabelled


def describe(data: Data) -> Known:
    """There is one split, and the held-out examples are as many again."""
    return Known({"train": data.examples}, tuple(data.shape))


def load_noise(data: Data) -> Dataset:
    """Standard normal inputs, uniform labels; the same for every run of these sizes."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((2 * data.examples, math.prod(data.shape)), np.float32)
    y = generator.integers(data.classes, size=2 * data.examples, dtype=np.int32)
    train = slice(None, min(data.examples, data.limit or data.examples))
    held_out = slice(data.examples, None)
    labels = relabelled(y, data.classes, data.label_noise)[train]
    shape = tuple(data.shape)
    return Dataset(
        "noise",
        "1.0.0",
        "train",
        x[train],
        labels,
        x[held_out],
        y[held_out],
        shape,
        data.classes,
        0.0,
        1.0,
    )
