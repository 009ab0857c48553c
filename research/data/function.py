"""Regression on a known function y = f(x), with x between -1 and 1."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from research.config.data_options import FunctionData
from research.data.dataset import Dataset, DatasetInfo, LabeledArrays, select_splits


@dataclass(frozen=True)
class TargetFunction:
    """A function of ``num_inputs`` numbers. ``evaluate`` takes an array [n] for each of them."""

    num_inputs: int
    evaluate: Callable[..., np.ndarray]


def _sine(x: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * x)


def _step(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, 1.0, 0.0)


def _polynomial(x: np.ndarray) -> np.ndarray:
    """Chebyshev's third polynomial, whose values stay between -1 and 1."""
    return 4 * x**3 - 3 * x


def _surface(x1: np.ndarray, x2: np.ndarray) -> np.ndarray:
    return np.sin(np.pi * x1) * np.cos(np.pi * x2)


FUNCTIONS = {
    "sine": TargetFunction(1, _sine),
    "step": TargetFunction(1, _step),
    "polynomial": TargetFunction(1, _polynomial),
    "surface": TargetFunction(2, _surface),
}


def describe(data: FunctionData) -> DatasetInfo:
    """Both splits have ``data.examples`` examples.

    Raises:
        ValueError: ``data.grid`` is set and no grid has this number of points.
    """
    num_inputs = FUNCTIONS[data.function.name].num_inputs
    if data.grid:
        _check_grid_size(data.examples, num_inputs)
    sizes = {"train": data.examples, "test": data.examples}
    return DatasetInfo(
        splits=sizes,
        shape=(num_inputs,),
        is_regression=True,
    )


def load_function(data: FunctionData) -> Dataset:
    """Random examples, the same for every run with these sizes.

    Only the training targets have noise, with standard deviation ``data.noise``.
    """
    info = describe(data)

    def read(split: str) -> LabeledArrays:
        return _generate_split(data, is_train=split == "train")

    # A part of a grid in its order would be a part of the interval.
    selected = select_splits(data, info.splits, read, shuffle=data.grid)
    return Dataset(
        name="function",
        version=data.function.name,
        split=data.split,
        x=selected.train.x,
        y=selected.train.y,
        eval_x=selected.evaluation.x,
        eval_y=selected.evaluation.y,
        shape=info.shape,
        classes=1,
    )


def _generate_split(data: FunctionData, *, is_train: bool) -> LabeledArrays:
    function = FUNCTIONS[data.function.name]
    shape = (data.examples, function.num_inputs)
    generator = np.random.default_rng(0 if is_train else 1)
    x = generator.uniform(-1, 1, shape)
    if is_train and data.grid:
        x = _make_grid(*shape)
    y = function.evaluate(*x.T)
    if is_train:
        y = y + data.noise * generator.standard_normal(data.examples)
    return LabeledArrays(x, y[:, None])


def _check_grid_size(examples: int, num_inputs: int) -> None:
    side = _grid_side(examples, num_inputs)
    if side**num_inputs == examples:
        return
    smaller = side**num_inputs
    larger = (side + 1) ** num_inputs
    raise ValueError(
        f"data.examples must be n^{num_inputs} if data.grid is true, got {examples} "
        f"(nearest: {smaller} and {larger})"
    )


def _grid_side(examples: int, num_inputs: int) -> int:
    # The root of a perfect power may come out just below a whole number.
    return math.floor(examples ** (1 / num_inputs) + 1e-9)


def _make_grid(examples: int, num_inputs: int) -> np.ndarray:
    """Points [n, inputs] from -1 to 1 in every input; the last input varies fastest."""
    side = _grid_side(examples, num_inputs)
    axis = np.linspace(-1, 1, side)
    axes = np.meshgrid(*[axis] * num_inputs, indexing="ij")
    points = np.stack(axes, axis=-1)
    return points.reshape(-1, num_inputs)
