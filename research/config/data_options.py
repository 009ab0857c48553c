"""The options of the group ``data``: one dataclass for each kind of source."""

import enum
from dataclasses import dataclass

from research.config.fields import setting

DataKind = enum.Enum(
    "DataKind",
    "digits python_docs function noise folder arrays mnist fashion_mnist cifar10 cifar100 "
    "svhn_cropped imagenette imagenet2012 tiny_shakespeare imdb_reviews trec tfds",
)
Function = enum.Enum("Function", ["sine", "step", "polynomial", "surface"])
Unit = enum.Enum("Unit", ["characters", "bytes", "words"])
WordVectors = enum.Enum("WordVectors", ["learned", "one_hot"])
Scaling = enum.Enum("Scaling", ["jointly", "per_feature"])

DRAWN_SCALING = (
    "jointly leaves examples as they are drawn: standard normal (noise), evenly from -1 to 1 "
    "(function); per_feature standardises each feature by itself."
)
DRAWN_MEAN = (
    "Mean of what the network reads; with scaling=jointly, what is added to each number after "
    "input_scale."
)
DRAWN_SCALE = (
    "Standard deviation of what the network reads; with scaling=jointly, the factor on the numbers "
    "as they are drawn."
)
LABEL_NOISE = (
    "Share of training labels that are drawn anew, evenly from all classes, so that of C classes "
    "one in C of them stays right."
)
CROP = (
    "Pixels around a training image before it is cropped at random. The network reads them as 0, "
    "the mean of standardised images."
)


@dataclass(frozen=True)
class Data:
    """The dataset, and how much of it is used."""

    name: DataKind = DataKind.digits
    limit: int | None = setting(
        None,
        "Keep only so many training examples: the first, or of data that may be sorted by class a "
        "random choice that is the same in every run.",
        ge=1,
    )


@dataclass(frozen=True)
class SplitData(Data):
    """Datasets with named splits."""

    split: str = setting("train", "Training split, or a slice of one: train[:10%], train[100:200].")
    eval_split: str = setting("test", "Evaluation split, or a slice of one.")


@dataclass(frozen=True)
class FunctionData(SplitData):
    """``function``: y = f(x), a regression."""

    name: DataKind = DataKind.function
    scaling: Scaling = setting(
        Scaling.jointly,
        DRAWN_SCALING,
    )
    input_mean: float = setting(0.0, DRAWN_MEAN)
    input_scale: float = setting(1.0, DRAWN_SCALE, gt=0)
    examples: int = setting(1024, "Examples of each split.", ge=2)
    function: Function = setting(Function.sine, "The function f.")
    grid: bool = setting(False, "Whether training inputs are evenly spaced instead of random.")
    noise: float = setting(0.0, "Standard deviation of noise on training targets.", ge=0)


@dataclass(frozen=True)
class NoiseData(Data):
    """``noise``: standard normal inputs with uniform labels."""

    name: DataKind = DataKind.noise
    scaling: Scaling = setting(
        Scaling.jointly,
        DRAWN_SCALING,
    )
    input_mean: float = setting(0.0, DRAWN_MEAN)
    input_scale: float = setting(1.0, DRAWN_SCALE, gt=0)
    label_noise: float = setting(0.0, LABEL_NOISE, ge=0, le=1)
    crop: int = setting(0, CROP, ge=0)
    flip: bool = setting(False, "Whether half of the training images are mirrored.")
    shape: tuple[int, ...] = setting((64,), "Shape of an example.")
    classes: int = setting(10, "Number of classes.", ge=2, le=100_000)
    examples: int = setting(1024, "Examples of each split.", ge=2)


@dataclass(frozen=True)
class ImageData(SplitData):
    """``digits``: examples that may be images, with class labels."""

    scaling: Scaling = setting(
        Scaling.jointly,
        "Standardise over all elements of all examples, or each feature by itself.",
    )
    input_mean: float = setting(0.0, "Mean of what the network reads.")
    input_scale: float = setting(1.0, "Standard deviation of what the network reads.", gt=0)
    label_noise: float = setting(0.0, LABEL_NOISE, ge=0, le=1)
    crop: int = setting(0, CROP, ge=0)
    flip: bool = setting(False, "Whether half of the training images are mirrored.")


@dataclass(frozen=True)
class ArrayData(ImageData):
    """``arrays``: your own arrays."""

    name: DataKind = DataKind.arrays
    path: str | None = setting(None, "An .npz file with x and y.")


@dataclass(frozen=True)
class StreamedImages(ImageData):
    """Images that are streamed from disk where they are larger than memory."""

    size: int | None = setting(
        None,
        "Pixels a side of the square to which the centre of each image is resized; null: images "
        "stay as they are.",
        ge=1,
    )
    resized_crop: bool = setting(
        False, "Whether a random part of each training image is resized to size; always streams."
    )
    in_memory_limit: float = setting(
        2.0, "Gigabytes above which examples are streamed from disk.", ge=0
    )


@dataclass(frozen=True)
class FolderData(StreamedImages):
    """``folder``: your own images, one sub-folder a class."""

    name: DataKind = DataKind.folder
    path: str | None = setting(None, "The folder.")


@dataclass(frozen=True)
class TextData(SplitData):
    """``python_docs``: text, as a language model's or a classifier's examples."""

    name: DataKind = DataKind.python_docs
    label: str | None = setting(None, "The target; null: the next token.")
    label_noise: float = setting(0.0, LABEL_NOISE, ge=0, le=1)
    unit: Unit = setting(Unit.characters, "What a token is.")
    length: int = setting(64, "Tokens of an example.", ge=2)
    word_vectors: WordVectors = setting(WordVectors.learned, "How a token is read.")


@dataclass(frozen=True)
class CatalogImages(StreamedImages):
    """Image datasets of the TFDS catalogue."""

    name: DataKind = DataKind.mnist
    dataset: str | None = setting(
        None,
        "Name in the catalogue, with its configuration after a slash; null: the option's name.",
    )
    label: str | None = setting(None, "The target; null: the first that there is.")
    raw_dir: str | None = setting(None, "A folder with files that were downloaded before.")
    download: bool = setting(True, "Whether missing files may be downloaded.")


@dataclass(frozen=True)
class CatalogText(TextData):
    """Text datasets of the TFDS catalogue."""

    name: DataKind = DataKind.tiny_shakespeare
    dataset: str | None = setting(
        None,
        "Name in the catalogue, with its configuration after a slash; null: the option's name.",
    )
    raw_dir: str | None = setting(None, "A folder with files that were downloaded before.")
    download: bool = setting(True, "Whether missing files may be downloaded.")


@dataclass(frozen=True)
class AnyCatalogData(CatalogImages):
    """``tfds``: any dataset of the TFDS catalogue, images or text."""

    name: DataKind = DataKind.tfds
    unit: Unit = setting(Unit.characters, "Text: what a token is.")
    length: int = setting(64, "Text: tokens of an example.", ge=2)
    word_vectors: WordVectors = setting(WordVectors.learned, "Text: how a token is read.")


CatalogData = CatalogImages | CatalogText
