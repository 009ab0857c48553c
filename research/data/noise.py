"""Random inputs with random labels: signal propagation without the structure of a dataset."""

import math

import numpy as np

from research.config.data_options import NoiseData
from research.data.dataset import Dataset, DatasetInfo, add_label_noise


def describe(data: NoiseData) -> DatasetInfo:
    """There is one split; as many evaluation examples come with it."""
    return DatasetInfo(
        splits={"train": data.examples},
        shape=tuple(data.shape),
    )


def load_noise(data: NoiseData) -> Dataset:
    """Standard normal inputs and uniform labels, the same for every run with these sizes."""
    generator = np.random.default_rng(0)
    total = 2 * data.examples
    num_features = math.prod(data.shape)
    x = generator.standard_normal((total, num_features), np.float32)
    y = generator.integers(data.classes, size=total, dtype=np.int32)
    noisy = add_label_noise(y, data.classes, data.label_noise)
    num_train = min(data.examples, data.limit or data.examples)
    return Dataset(
        name="noise",
        version="1.0.0",
        split="train",
        x=x[:num_train],
        y=noisy[:num_train],
        eval_x=x[data.examples :],
        eval_y=y[data.examples :],
        shape=tuple(data.shape),
        classes=data.classes,
    )
