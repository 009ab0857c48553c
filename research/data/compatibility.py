"""Which settings go with the data, as far as it is known before the data is loaded."""

import dataclasses
import enum
import math
from collections.abc import Iterator

import numpy as np

from research.config.compatibility import Conflict, divisors, join_numbers, raise_first
from research.config.data_options import (
    AnyCatalogData,
    ArrayData,
    Data,
    DataKind,
    FunctionData,
    NoiseData,
    Scaling,
    SplitData,
    StreamedImages,
    WordVectors,
)
from research.config.host_memory import format_bytes, free_host_bytes
from research.config.notices import notify_once
from research.config.number_formats import POLICIES
from research.config.options import (
    CONVOLUTIONAL,
    MAX_STEPS,
    LossKind,
    ModelKind,
    OptimizerKind,
    PrecisionKind,
    Recurrent,
    Transformer,
)
from research.config.paths import expand_home
from research.config.schema import Config
from research.data.dataset import DatasetInfo
from research.data.sources import describe
from research.data.splits import parse_split

# Of the training and the evaluation split, one is generated and one goes to the device, and copies
# are made in between.
NUM_GENERATED_COPIES = 6
MAX_MEAN = 1e4  # of inputs, in their standard deviations
USUAL_TIME_STEPS = 16  # of an rnn that reads numbers


def choose_depth(config: Config) -> Config:
    """The configuration with the depth that fits the data, where a recurrent network has none.

    Raises:
        ValueError: the data is missing, or it does not fit the settings.
    """
    if not isinstance(config.model, Recurrent) or config.model.depth is not None:
        return config
    info = describe(config.data)
    if info.text:
        depth = info.shape[0]
    else:
        parts = divisors(math.prod(info.shape))
        depth = max(part for part in parts if part <= USUAL_TIME_STEPS)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, depth=depth))


def check_raw_dir(data: Data) -> None:
    """Checks the folder of raw files, also where the dataset is prepared already.

    Raises:
        ValueError: there is no such folder.
    """
    raw_dir = getattr(data, "raw_dir", None)
    if raw_dir and not expand_home(raw_dir).is_dir():
        raise ValueError(f"data.raw_dir must be a folder, got {raw_dir}")


def check_data(config: Config) -> int:
    """Checks the settings that depend on the data.

    Returns:
        How many steps the run has.

    Raises:
        ValueError: saying what would be valid, for the first setting that does not fit the data.
    """
    info = describe(config.data)
    _check_formats(config)
    raise_first(_conflicts(config, info))
    _check_generated_size(config, info)
    _check_image_size(config, info)
    num_examples = _count_training_examples(config, info)
    _check_batch_size(config, num_examples)
    steps = _count_steps(config, num_examples)
    _report_classes_as_targets(config, info)
    _report_tokens_as_numbers(config, info)
    return steps


def _check_formats(config: Config) -> None:
    """Checks that the user's numbers still differ in the number formats of the run."""
    if not isinstance(config.data, ArrayData):
        return
    from research.data.arrays import check_formats

    policy = POLICIES[config.precision.kind.name]
    check_formats(config.data, inputs=policy.compute, targets=policy.accumulation)


def _report_classes_as_targets(config: Config, info: DatasetInfo) -> None:
    """Say that whole numbers in a user's file are classes also for a regression's loss."""
    data = config.data
    if isinstance(data, ArrayData) and config.loss.kind is LossKind.mse and not info.is_regression:
        notify_once(
            f"{data.path}: y holds whole numbers, which are classes, so loss=mse compares outputs "
            "with 1 for the right class and 0 for others: y.astype(float) makes targets of them"
        )


def _report_tokens_as_numbers(config: Config, info: DatasetInfo) -> None:
    """Say that rows of whole numbers are numbers also for a model that may read tokens."""
    data = config.data
    reads_tokens = config.model.kind in (ModelKind.transformer, ModelKind.rnn)
    if isinstance(data, ArrayData) and info.whole_rows and reads_tokens:
        notify_once(
            f"{data.path}: x holds whole numbers, which are standardised and read as numbers, and "
            "not as tokens of a text"
        )


def _check_generated_size(config: Config, info: DatasetInfo) -> None:
    """Checks that generated examples fit into memory, before any of them is generated."""
    data = config.data
    free = free_host_bytes()
    if not isinstance(data, NoiseData | FunctionData) or free is None:
        return
    numbers = math.prod(info.shape) + 1  # with the target
    bytes_per_example = NUM_GENERATED_COPIES * numbers * np.dtype(np.float32).itemsize
    needed = data.examples * bytes_per_example
    if needed <= free:
        return
    num_fitting = free // bytes_per_example
    raise ValueError(
        f"data.examples={data.examples} with {numbers - 1} numbers each need "
        f"{format_bytes(needed)} of memory and {format_bytes(free)} are free, "
        f"enough for {num_fitting} examples"
    )


def _check_image_size(config: Config, info: DatasetInfo) -> None:
    """Checks that the images that are in memory at once fit, before they are read."""
    data = config.data
    free = free_host_bytes()
    if not isinstance(data, StreamedImages) or info.text or free is None:
        return
    from research.data.streaming import count_images_in_memory

    batch_size = config.train.batch_size
    bytes_per_image = math.prod(info.shape) * info.bytes_per_number
    num_images = count_images_in_memory(data, bytes_per_image, info.splits, batch_size)
    needed = num_images * bytes_per_image
    if needed <= free:
        return
    height, width, channels = info.shape
    raise ValueError(
        f"{num_images} images of {height}×{width}×{channels} numbers are in memory at once: "
        f"they need {format_bytes(needed)}, and {format_bytes(free)} are free, so "
        "reduce data.size, train.batch_size or data.in_memory_limit"
    )


def _count_training_examples(config: Config, info: DatasetInfo) -> int:
    data = config.data
    if isinstance(data, NoiseData):
        size = data.examples
    else:
        assert isinstance(data, SplitData)
        _, part = parse_split(data.split, info.splits)
        parse_split(data.eval_split, info.splits, "data.eval_split")
        size = part.stop - part.start
    limit = data.limit or size
    if limit > size:
        raise ValueError(
            f"data.limit must be ≤ {size}, the training examples of {data.name.name}, got {limit}"
        )
    return limit


def _check_batch_size(config: Config, num_examples: int) -> None:
    batch = config.train.batch_size
    name = config.data.name.name
    if config.optimizer.kind is not OptimizerKind.gd and batch > num_examples:
        raise ValueError(
            f"train.batch_size must be ≤ {num_examples}, the training examples of {name}, "
            f"got {batch}"
        )


def _count_steps(config: Config, num_examples: int) -> int:
    """The steps of the run.

    Raises:
        ValueError: those that follow from ``train.epochs`` are too many to be counted.
    """
    if config.train.steps:
        return config.train.steps
    steps_per_epoch = 1
    if config.optimizer.kind is not OptimizerKind.gd:
        steps_per_epoch = num_examples // config.train.batch_size
    epochs = config.train.epochs
    if epochs * steps_per_epoch >= MAX_STEPS - 1:
        longest = MAX_STEPS // steps_per_epoch
        raise ValueError(
            f"train.epochs must be < {longest} with {steps_per_epoch} steps an epoch, got {epochs}"
        )
    return config.train.num_steps(steps_per_epoch)


def _conflicts(config: Config, info: DatasetInfo) -> Iterator[Conflict]:
    yield from _target_conflicts(config, info)
    yield from _class_conflicts(config, info)
    yield from _token_conflicts(config, info)
    yield from _moment_conflicts(config)
    yield from _unused_conflicts(config.data, info)
    yield from _augmentation_conflicts(config, info)
    if info.text:
        yield from _text_conflicts(config)
    yield from _tying_conflicts(config, info)
    yield from _shape_conflicts(config, info)
    yield from _fitted_function_conflicts(config, info)
    if isinstance(config.model, Recurrent):
        yield from _time_conflicts(config.model.depth, info)


def _target_conflicts(config: Config, info: DatasetInfo) -> Iterator[Conflict]:
    name = config.data.name.name
    label_noise = getattr(config.data, "label_noise", 0)
    numbers = f"the targets of {name} are numbers"
    if info.is_regression and config.loss.kind is not LossKind.mse:
        is_file = config.data.name is DataKind.arrays
        conversion = "y.astype(int), of one-hot rows y.argmax(axis=1)"
        hint = f"; whole numbers would be classes: {conversion}" if is_file else ""
        yield Conflict(
            path="loss",
            valid="mse",
            got=config.loss.kind.name,
            reason=f"{numbers}, not classes{hint}",
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


def _class_conflicts(config: Config, info: DatasetInfo) -> Iterator[Conflict]:
    """Diagnostics that sort examples by class."""
    if not (info.is_regression or info.language):
        return
    for name in ("probes", "representations"):
        if name in config.measure.inspect:
            yield Conflict(
                path="data",
                valid="a dataset with a class for each example",
                got=config.data.name.name,
                reason=f"{name} needs one",
            )


def _token_conflicts(config: Config, info: DatasetInfo) -> Iterator[Conflict]:
    if "tokens" in config.measure.inspect and (not info.text or info.language):
        yield Conflict(
            path="data",
            valid="texts with a class each",
            got=config.data.name.name,
            reason="tokens looks at the words of a text",
        )


def _moment_conflicts(config: Config) -> Iterator[Conflict]:
    """A mean next to which float32 would not tell inputs apart."""
    mean = getattr(config.data, "input_mean", 0.0)
    limit = MAX_MEAN * getattr(config.data, "input_scale", 1.0)
    if abs(mean) > limit and config.precision.kind is not PrecisionKind.float64:
        yield Conflict(
            path="data.input_mean",
            valid=f"between -{limit:g} and {limit:g}",
            got=mean,
            reason="float32 would round away most of what differs between inputs",
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
            reason = _describe_no_images(config.data, info)
            yield Conflict(
                path=f"data.{setting}",
                valid="left out",
                got=str(value).lower(),
                reason=reason,
            )
    crop = getattr(data, "crop", 0)
    if is_image and crop >= min(info.shape[:2]):
        yield Conflict(
            path="data.crop",
            valid=f"< {min(info.shape[:2])}",
            got=crop,
            reason=f"an image of {name} has {info.shape[0]}×{info.shape[1]} pixels",
        )
    if getattr(data, "resized_crop", False) and not is_image:
        yield Conflict(
            path="data.resized_crop",
            valid="false",
            got="true",
            reason=f"{name} holds no images",
        )


def _describe_no_images(data: Data, info: DatasetInfo) -> str:
    """Why there are no images, and what makes gray ones of an array without channels."""
    name = data.name.name
    if data.name is DataKind.arrays and len(info.shape) == 2:
        height, width = info.shape
        return (
            f"{name} holds no images, but {height}×{width} numbers without channels: "
            "x[..., None] makes gray images of them"
        )
    return f"{name} holds no images"


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
        reason = _describe_no_images(config.data, info)
        yield Conflict(
            path="model",
            valid="mlp, transformer or rnn",
            got=model.name,
            reason=reason,
        )


def _fitted_function_conflicts(config: Config, info: DatasetInfo) -> Iterator[Conflict]:
    numbers = math.prod(info.shape)
    if "fitted_function" in config.measure.inspect and (info.text or numbers > 2):
        yield Conflict(
            path="data",
            valid="a dataset whose examples are one or two numbers",
            got=config.data.name.name,
            reason="fitted_function evaluates the network over a grid of inputs",
        )


def _time_conflicts(depth: int | None, info: DatasetInfo) -> Iterator[Conflict]:
    if info.text:
        if depth != info.shape[0]:
            valid = f"data.length={info.shape[0]}"
            reason = "an rnn has one step for each token"
            yield Conflict(
                path="model.depth",
                valid=valid,
                got=depth,
                reason=reason,
            )
        return
    numbers = math.prod(info.shape)
    if depth is not None and numbers % depth:
        valid = f"a divisor of {numbers}: {join_numbers(divisors(numbers))}"
        reason = f"each step reads an equal part of the {numbers} numbers of an example"
        yield Conflict(
            path="model.depth",
            valid=valid,
            got=depth,
            reason=reason,
        )
