"""Which settings go with the data, as far as it is known before the data is loaded."""

import enum
import math
from collections.abc import Iterator

from research.config.compatibility import Conflict, divisors, join_numbers, raise_first
from research.config.data_options import (
    AnyCatalogData,
    Data,
    DataKind,
    NoiseData,
    Scaling,
    SplitData,
    WordVectors,
)
from research.config.options import (
    CONVOLUTIONAL,
    LossKind,
    ModelKind,
    OptimizerKind,
    PrecisionKind,
    Recurrent,
    Transformer,
)
from research.config.schema import Config
from research.data.dataset import DatasetInfo
from research.data.sources import describe
from research.data.splits import parse_split


def check_data(config: Config) -> None:
    """Checks the settings that depend on the data.

    Raises:
        ValueError: saying what would be valid, for the first setting that does not fit the data.
    """
    info = describe(config.data)
    if info.lost_in_float32 and config.precision.kind is not PrecisionKind.float64:
        raise ValueError(info.lost_in_float32)
    raise_first(_conflicts(config, info))
    _check_batch_size(config, info)


def _check_batch_size(config: Config, info: DatasetInfo) -> None:
    data = config.data
    if isinstance(data, NoiseData):
        size = data.examples
    else:
        assert isinstance(data, SplitData)
        _, part = parse_split(data.split, info.splits)
        parse_split(data.eval_split, info.splits, "data.eval_split")
        size = part.stop - part.start
    examples = min(size, data.limit or size)
    batch = config.train.batch_size
    if config.optimizer.kind is not OptimizerKind.gd and batch > examples:
        raise ValueError(
            f"train.batch_size must be ≤ {examples}, the examples of {data.name.name}, got {batch}"
        )


def _conflicts(config: Config, info: DatasetInfo) -> Iterator[Conflict]:
    yield from _target_conflicts(config, info)
    yield from _unused_conflicts(config.data, info)
    yield from _augmentation_conflicts(config, info)
    if info.text:
        yield from _text_conflicts(config)
    yield from _tying_conflicts(config, info)
    yield from _shape_conflicts(config, info)
    if isinstance(config.model, Recurrent):
        yield from _time_conflicts(config.model, info)


def _target_conflicts(config: Config, info: DatasetInfo) -> Iterator[Conflict]:
    name = config.data.name.name
    label_noise = getattr(config.data, "label_noise", 0)
    numbers = f"the targets of {name} are numbers"
    if info.is_regression and config.loss.kind is not LossKind.mse:
        yield Conflict(
            path="loss",
            valid="mse",
            got=config.loss.kind.name,
            reason=f"{numbers}, not classes",
        )
    if info.is_regression and config.loss.label_smoothing:
        yield Conflict(
            path="loss.label_smoothing",
            valid="0",
            got=config.loss.label_smoothing,
            reason=numbers,
        )
    if label_noise and (info.is_regression or info.language):
        reason = f"the targets of {name} are not classes"
        yield Conflict(
            path="data.label_noise",
            valid="0",
            got=label_noise,
            reason=reason,
        )


def _unused_conflicts(data: Data, info: DatasetInfo) -> Iterator[Conflict]:
    """Settings for texts where ``data=tfds`` holds images, and the other way round."""
    if not isinstance(data, AnyCatalogData):
        return
    names = ("size", "in_memory_limit") if info.text else ("unit", "length", "word_vectors")
    kind = "images" if info.text else "texts"
    for name in names:
        value = getattr(data, name)
        if value != getattr(AnyCatalogData(), name):
            got = value.name if isinstance(value, enum.Enum) else value
            yield Conflict(
                path=f"data.{name}",
                valid="left out",
                got=got,
                reason=f"{data.dataset} holds no {kind}",
            )


def _augmentation_conflicts(config: Config, info: DatasetInfo) -> Iterator[Conflict]:
    data = config.data
    name = data.name.name
    is_image = len(info.shape) == 3 and not info.text
    for setting in ("crop", "flip"):
        value = getattr(data, setting, False)
        if value and not is_image:
            reason = f"{name} holds no images"
            yield Conflict(
                path=f"data.{setting}",
                valid="left out",
                got=str(value).lower(),
                reason=reason,
            )
    if getattr(data, "resized_crop", False) and not is_image:
        yield Conflict(
            path="data.resized_crop",
            valid="false",
            got="true",
            reason=f"{name} holds no images",
        )


def _text_conflicts(config: Config) -> Iterator[Conflict]:
    data = config.data
    name = data.name.name
    model = config.model.kind
    if model not in (ModelKind.transformer, ModelKind.rnn):
        yield Conflict(
            path="model",
            valid="transformer or rnn",
            got=model.name,
            reason=f"{name} holds text",
        )
    reason = f"the tokens of {name} are not numbers"
    if config.train.input_noise:
        yield Conflict(
            path="train.input_noise",
            valid="0",
            got=config.train.input_noise,
            reason=reason,
        )
    scaling = getattr(data, "scaling", Scaling.jointly)
    if scaling is not Scaling.jointly:
        yield Conflict(
            path="data.scaling",
            valid="jointly",
            got=scaling.name,
            reason=reason,
        )
    if "input_gradient" in config.measure.inspect:
        yield Conflict(
            path="data",
            valid="a dataset of numbers",
            got=name,
            reason="input_gradient needs one",
        )


def _tying_conflicts(config: Config, info: DatasetInfo) -> Iterator[Conflict]:
    model = config.model
    if not isinstance(model, Transformer) or not model.tied:
        return
    vectors = getattr(config.data, "word_vectors", None)
    if not info.language or vectors is not WordVectors.learned:
        reason = "only a model that predicts the next token has learned word vectors to share"
        yield Conflict(
            path="model.tied",
            valid="false",
            got="true",
            reason=reason,
        )


def _shape_conflicts(config: Config, info: DatasetInfo) -> Iterator[Conflict]:
    model = config.model.kind
    if model not in CONVOLUTIONAL or info.text or len(info.shape) in (2, 3):
        return
    if config.data.name is DataKind.noise:
        shape = list(info.shape)
        yield Conflict(
            path="data.shape",
            valid="height, width and channels",
            got=shape,
            reason=f"{model.name} reads images",
        )
    else:
        reason = f"{config.data.name.name} holds no images"
        yield Conflict(
            path="model",
            valid="mlp, transformer or rnn",
            got=model.name,
            reason=reason,
        )


def _time_conflicts(model: Recurrent, info: DatasetInfo) -> Iterator[Conflict]:
    if info.text:
        if model.depth != info.shape[0]:
            valid = f"data.length={info.shape[0]}"
            reason = "an rnn has one step for each token"
            yield Conflict(
                path="model.depth",
                valid=valid,
                got=model.depth,
                reason=reason,
            )
        return
    numbers = math.prod(info.shape)
    if numbers % model.depth:
        valid = f"a divisor of {numbers}: {join_numbers(divisors(numbers))}"
        reason = f"each step reads an equal part of the {numbers} numbers of an example"
        yield Conflict(
            path="model.depth",
            valid=valid,
            got=model.depth,
            reason=reason,
        )
