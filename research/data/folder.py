"""Image files: a folder with a sub-folder for each class, or with such a folder for each split."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from research.config.data_options import FolderData
from research.data.dataset import (
    Dataset,
    DatasetInfo,
    LabeledArrays,
    make_standardized_dataset,
    select_splits,
    stack_examples,
)
from research.data.images import center_crop_and_resize
from research.data.splits import choose_test_positions
from research.data.streaming import ImageFormat, make_streamed_dataset, must_stream

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
SPLIT_NAMES = ("train", "test", "validation", "val")
GRAY_MODES = ("1", "L", "I", "I;16", "F")  # of Pillow's images


ImageShape = tuple[int, int, int]  # height, width and channels


@dataclass(frozen=True)
class ImageFile:
    """An image file and the number of its class."""

    path: Path
    label: int


@dataclass(frozen=True)
class ImageFolder:
    """The files of each split, the names of the classes, and the shape of the first image."""

    splits: dict[str, list[ImageFile]]
    class_names: list[str]
    shape: ImageShape

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of images in each split."""
        sizes = {}
        for split, files in self.splits.items():
            sizes[split] = len(files)
        return sizes


class ImageFileSource:
    """Image files as raw examples by position."""

    def __init__(self, files: list[ImageFile], channels: int):
        self._files = files
        self._channels = channels

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, object]:
        file = self._files[index]
        image = read_image(file.path, self._channels)
        return {"image": image, "label": file.label}


def describe(data: FolderData) -> DatasetInfo:
    """What the folder holds; only its first image is opened.

    Raises:
        ValueError: There is no such folder, it has no classes, or a class has no images.
    """
    folder = _find_images(data)
    return DatasetInfo(
        splits=folder.split_sizes,
        shape=_image_shape(folder, data),
    )


def load_folder(data: FolderData) -> Dataset:
    """The images, in memory or streamed. Classes are numbered in alphabetical order."""
    folder = _find_images(data)
    shape = _image_shape(folder, data)
    classes = len(folder.class_names)
    version = Path(data.path or "").name

    def open_records(split: str) -> ImageFileSource:
        return ImageFileSource(folder.splits[split], shape[-1])

    def read(split: str) -> LabeledArrays:
        return _read_images(folder.splits[split], shape, resize=data.size is not None)

    if must_stream(data, shape, folder.split_sizes):
        return make_streamed_dataset(
            data,
            folder.split_sizes,
            open_records,
            ImageFormat(shape, classes),
            name="folder",
            version=version,
        )
    return make_standardized_dataset(
        select_splits(data, folder.split_sizes, read, classes),
        name="folder",
        version=version,
        split=data.split,
        shape=shape,
        classes=classes,
    )


def read_image(path: Path, channels: int) -> np.ndarray:
    """An image [H, W, C] uint8, in gray for one channel and in color for three.

    Raises:
        ValueError: The file is not an image, or it is damaged.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode = "L" if channels == 1 else "RGB"
            pixels = np.asarray(image.convert(mode))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ValueError(f"{path} is not an image, or it is damaged") from None
    return pixels.reshape(*pixels.shape[:2], channels)


def _read_images(
    files: list[ImageFile],
    shape: ImageShape,
    *,
    resize: bool,
) -> LabeledArrays:
    """All images as rows [n, features], and their labels [n] int32."""
    rows = []
    labels = []
    for file in files:
        image = read_image(file.path, shape[-1])
        if image.shape != shape and not resize:
            height, width, _ = image.shape
            raise ValueError(
                f"{file.path} must be an image of {shape[0]}×{shape[1]} pixels like the first one, "
                f"got {height}×{width}: data.size=… resizes all images to one size"
            )
        resized = center_crop_and_resize(image, shape)
        rows.append(resized.reshape(-1))
        labels.append(file.label)
    return stack_examples(rows, labels)


def _image_shape(folder: ImageFolder, data: FolderData) -> ImageShape:
    if data.size:
        channels = folder.shape[-1]
        return (data.size, data.size, channels)
    return folder.shape


def _find_images(data: FolderData) -> ImageFolder:
    if not data.path:
        raise ValueError(
            "data.path must be a folder with a sub-folder of images for each class, got none"
        )
    folder = Path(data.path).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"data.path must be a folder with a sub-folder for each class, "
            f"got {folder}, which is not a folder"
        )
    return _list_images(folder, folder.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _list_images(folder: Path, modified_ns: int) -> ImageFolder:
    """The images in a folder. ``modified_ns`` is part of the cache key, so a change is noticed."""
    subfolders = _list_subfolders(folder)
    if subfolders and all(subfolder.name in SPLIT_NAMES for subfolder in subfolders):
        class_names = _list_class_names(subfolders)
        splits = {}
        for subfolder in subfolders:
            splits[subfolder.name] = _list_files(subfolder, class_names)
        if "train" not in splits:
            found = ", ".join(sorted(splits))
            raise ValueError(f"{folder} must hold a folder train next to {found}")
    else:
        class_names = [subfolder.name for subfolder in subfolders]
        files = _list_files(folder, class_names)
        train_positions, test_positions = choose_test_positions(len(files))
        splits = {
            "train": [files[n] for n in train_positions],
            "test": [files[n] for n in test_positions],
        }
    if len(class_names) < 2:
        raise ValueError(
            f"{folder} must hold a sub-folder of images for each of at least two classes, "
            f"got {', '.join(class_names) or 'none'}"
        )
    first_file = splits["train"][0]
    return ImageFolder(splits, class_names, _read_shape(first_file.path))


def _list_class_names(splits: list[Path]) -> list[str]:
    """The classes of all splits, in alphabetical order."""
    names = set()
    for split in splits:
        names.update(subfolder.name for subfolder in _list_subfolders(split))
    return sorted(names)


def _list_files(folder: Path, class_names: list[str]) -> list[ImageFile]:
    """The images of every class.

    Raises:
        ValueError: A class has no images.
    """
    files = []
    for label, name in enumerate(class_names):
        images = []
        for path in sorted((folder / name).glob("**/*")):
            if path.suffix.lower() in SUFFIXES:
                images.append(ImageFile(path, label))
        if not images:
            raise ValueError(f"{folder / name} must hold images ({', '.join(SUFFIXES)}), got none")
        files += images
    return files


def _list_subfolders(folder: Path) -> list[Path]:
    subfolders = []
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith("."):
            subfolders.append(path)
    return sorted(subfolders)


def _read_shape(path: Path) -> ImageShape:
    """Height, width, and the number of channels: one for a gray image, three for a color image."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            channels = 1 if image.mode in GRAY_MODES else 3
            return image.height, image.width, channels
    except OSError:
        raise ValueError(f"{path} is not an image, or it is damaged") from None
