"""The settings of the data, a group of the typed configuration."""

import enum
from dataclasses import dataclass, field

from research.config.fields import number

DataKind = enum.Enum(
    "DataKind",
    [
        "digits",
        "python_docs",
        "function",
        "noise",
        "folder",
        "arrays",
        "mnist",
        "fashion_mnist",
        "cifar10",
        "cifar100",
        "svhn_cropped",
        "imagenette",
        "imagenet2012",
        "tiny_shakespeare",
        "imdb_reviews",
        "trec",
        "tfds",
    ],
)
Function = enum.Enum("Function", ["sine", "step", "polynomial", "surface"])
Unit = enum.Enum("Unit", ["characters", "bytes", "words"])
WordVectors = enum.Enum("WordVectors", ["learned", "one_hot"])
Scaling = enum.Enum("Scaling", ["jointly", "per_feature"])


@dataclass
class Data:
    """The dataset, how much of it, and what becomes of an example on its way into the network."""

    name: DataKind = DataKind.digits
    dataset: str | None = (
        None  # of the TFDS catalogue, with its configuration behind a slash; null: ``name``
    )
    split: str = "train"  # or a slice of one: train[:10%], train[100:200]
    eval_split: str = "test"
    limit: int | None = number(None, ge=1)  # keep only the first examples of the training split
    scaling: Scaling = (
        Scaling.jointly
    )  # mean 0 and deviation 1 over all elements, or of each pixel or number by itself
    label: str | None = (
        None  # the target's name; null: the first there is, or of text without one the next token
    )
    label_noise: float = number(0.0, ge=0, le=1)  # share of the training labels that are drawn anew
    path: str | None = None  # folder: classes as sub-folders; arrays: a .npz with x and y
    size: int | None = number(
        None, ge=1
    )  # pixels a side that images of a folder or of many shapes are brought to
    crop: int = number(
        0, ge=0
    )  # zeros put around a training image, before it is cut to its size at random
    flip: bool = False  # half of the training images mirrored
    resized_crop: bool = False  # a random part of each training image, resized to ``size``; streams
    raw_dir: str | None = None  # where files to prepare from lie already
    download: bool = True  # whether files that are missing may be fetched
    in_memory_limit: float = number(
        2.0, ge=0
    )  # gigabytes decoded, beyond which examples are streamed
    shape: list[int] = field(default_factory=lambda: [64])  # noise
    classes: int = number(10, ge=2)  # noise
    examples: int = number(1024, ge=2)  # noise, function
    function: Function = Function.sine  # function
    grid: bool = False  # function: training inputs evenly spaced, not drawn
    noise: float = number(
        0.0, ge=0
    )  # function: standard deviation of what is added to the training targets
    unit: Unit = Unit.characters  # text: what a token is
    length: int = number(64, ge=2)  # text: tokens an example
    word_vectors: WordVectors = WordVectors.learned  # text: how a token is read
