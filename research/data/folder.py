"""Image files: a folder with a sub-folder for each class, or with such a folder for each split."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from research.config.data_options import FolderData
from research.config.paths import expand_home
from research.data.dataset import (
    Dataset,
    DatasetInfo,
    LabeledArrays,
    make_standardized_dataset,
    select_splits,
    stack_examples,
)
from research.data.image_files import (
    SUFFIXES,
    FoundFiles,
    count_channels,
    find_files,
    ignore_pillow_warnings,
    is_hidden,
    last_change,
    read_image,
    show_path,
)
from research.data.images import center_crop_and_resize
from research.data.notices import join_first, notify
from research.data.splits import choose_test_positions
from research.data.streaming import ImageFormat, make_streamed_dataset, must_stream

# Words for folders, in any case, that hold a split: the split's name for each of them.
SPLIT_OF_WORD = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "valid",
    "val": "val",
    "dev": "dev",
    "eval": "eval",
}
# What may follow: ``training_set``, ``Test Data``, ``val-images``.
SPLIT_FOLDER = re.compile(r"([a-z]+?)[ _-]?(?:set|data|images|split)?")


ImageShape = tuple[int, int, int]  # height, width and channels


@dataclass(frozen=True)
class ImageFile:
    """An image file and the number of its class."""

    path: Path
    label: int


@dataclass(frozen=True)
class ImageFolder:
    """The files of each split, the names of the classes, and the shape of the first image.

    The shape has three channels if any image has color.
    """

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

    def __init__(
        self,
        files: list[ImageFile],
        shape: ImageShape,
        *,
        resize: bool,
    ):
        """Wrap files.

        Args:
            files: The files.
            shape: Height, width and channels.
            resize: Whether images of another height or width are resized later, not refused.
        """
        self.labels = np.array([file.label for file in files], np.int32)
        self._files = files
        self._shape = shape
        self._resize = resize

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, object]:
        file = self._files[index]
        image = _read_image(file.path, self._shape, resize=self._resize)
        return {"image": image, "label": file.label}


def describe(data: FolderData) -> DatasetInfo:
    """What the folder holds. Images are opened until one has color.

    A line on standard error says which files are left out.

    Raises:
        ValueError: There is no such folder, it has no classes, or a class has no images.
    """
    ignore_pillow_warnings()
    folder = _find_images(data)
    return DatasetInfo(
        splits=folder.split_sizes,
        shape=_image_shape(folder, data),
    )


def load_folder(data: FolderData) -> Dataset:
    """The images, in memory or streamed. Classes are numbered in alphabetical order."""
    ignore_pillow_warnings()
    folder = _find_images(data)
    shape = _image_shape(folder, data)
    classes = len(folder.class_names)
    version = Path(data.path or "").name
    resize = data.size is not None or data.resized_crop

    def open_records(split: str) -> ImageFileSource:
        return ImageFileSource(folder.splits[split], shape, resize=resize)

    def read(split: str) -> LabeledArrays:
        return _read_images(folder.splits[split], shape, resize=resize)

    if must_stream(data, shape, folder.split_sizes):
        return make_streamed_dataset(
            data,
            folder.split_sizes,
            open_records,
            ImageFormat(shape, classes),
            name="folder",
            version=version,
            shuffle=True,
            class_names=folder.class_names,
        )
    return make_standardized_dataset(
        select_splits(data, folder.split_sizes, read, classes, shuffle=True),
        name="folder",
        version=version,
        split=data.split,
        shape=shape,
        classes=classes,
        class_names=folder.class_names,
    )


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
        image = _read_image(file.path, shape, resize=resize)
        resized = center_crop_and_resize(image, shape)
        rows.append(resized.reshape(-1))
        labels.append(file.label)
    return stack_examples(rows, labels)


def _read_image(
    path: Path,
    shape: ImageShape,
    *,
    resize: bool,
) -> np.ndarray:
    """An image [H, W, C] uint8; unless it will be resized, it has the height and width of shape."""
    image = read_image(path, shape[-1])
    if image.shape != shape and not resize:
        height, width, _ = image.shape
        raise ValueError(
            f"{show_path(path)} must be an image of {shape[0]}×{shape[1]} pixels like the first "
            f"one, got {height}×{width}: data.size=… resizes all images to one size"
        )
    return image


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
    folder = expand_home(data.path)
    if not folder.is_dir():
        raise ValueError(
            f"data.path must be a folder with a sub-folder for each class, "
            f"got {folder}, which is not a folder"
        )
    return _list_images(folder, folder.absolute(), last_change(folder))


@functools.lru_cache(maxsize=2)
def _list_images(
    folder: Path,
    place: Path,
    modified_ns: int,
) -> ImageFolder:
    """The images in a folder.

    ``place`` and ``modified_ns`` are part of the cache key only, so a change is noticed.
    """
    found = find_files(folder)
    split_folders = _find_split_folders(folder, found)
    if split_folders:
        class_names = _list_class_names(list(split_folders.values()))
        splits = {}
        for split, subfolder in split_folders.items():
            splits[split] = _list_files(subfolder, class_names, found)
    else:
        class_names = [subfolder.name for subfolder in _list_subfolders(folder)]
        files = _list_files(folder, class_names, found)
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
    used_paths = []
    for files in splits.values():
        used_paths += [file.path for file in files]
    _report_unused(folder, found, used_paths)
    first_path = splits["train"][0].path
    channels = count_channels([first_path, *used_paths])
    height, width, _ = read_image(first_path, channels).shape
    return ImageFolder(splits, class_names, (height, width, channels))


def _find_split_folders(folder: Path, found: FoundFiles) -> dict[str, Path]:
    """The folder of each split by the split's name; empty if the sub-folders are classes.

    Raises:
        ValueError: There are splits next to other folders of images, two folders are the same
            split, or there is no training split.
    """
    subfolders = _list_subfolders(folder)
    candidates = [path for path in subfolders if _split_of(path)]
    if not candidates:
        _check_no_numbered_splits(folder, subfolders)
        return {}
    names_with_images = {path.relative_to(folder).parts[0] for path in found.images}
    others = []
    for path in subfolders:
        if path not in candidates and path.name in names_with_images:
            others.append(path)
    if others:
        with_classes = [path for path in candidates if _list_subfolders(path)]
        if with_classes:
            raise ValueError(
                f"{folder} must hold folders of splits or of classes, got the splits "
                f"{_join_names(with_classes)} next to {_join_names(others)}: "
                "move or rename some of them"
            )
        if names_with_images >= {path.name for path in candidates}:
            notify(
                f"{folder}: {_join_names(candidates)} is read as a class and not as a split, "
                f"because there are no sub-folders in it, and next to it is {_join_names(others)}"
            )
        return {}
    splits = {}
    for path in candidates:
        split = _split_of(path)
        if split in splits:
            raise ValueError(
                f"{folder} must hold one folder for the split {split}, "
                f"got {splits[split].name} and {path.name}"
            )
        splits[split] = path
    if "train" not in splits:
        raise ValueError(f"{folder} must hold a folder train next to {', '.join(sorted(splits))}")
    return splits


def _split_of(folder: Path) -> str:
    """The split that the name of a folder stands for; empty if it stands for none."""
    parts = SPLIT_FOLDER.fullmatch(folder.name.lower())
    return SPLIT_OF_WORD.get(parts.group(1), "") if parts else ""


def _check_no_numbered_splits(folder: Path, subfolders: list[Path]) -> None:
    """Raises ValueError for folders such as ``train1`` that hold folders, maybe of classes."""
    for path in subfolders:
        word = re.sub(r"[ _-]?\d+$", "", path.name.lower())
        if word in SPLIT_OF_WORD and _list_subfolders(path):
            raise ValueError(
                f"{folder} must hold folders of splits or of classes, got {path.name}, "
                f"which may be either: rename it to {SPLIT_OF_WORD[word]}, or to another word"
            )


def _report_unused(
    folder: Path,
    found: FoundFiles,
    used: list[Path],
) -> None:
    """Say in one line how many files are left out, if any are."""
    counts = {
        "hidden": len(found.hidden),
        "not an image": len(found.others),
        "outside of the folders of classes": len(found.images) - len(used),
    }
    reasons = []
    for reason, count in counts.items():
        if count:
            reasons.append(f"{count} {reason}")
    if reasons:
        notify(f"{folder}: files left out: {', '.join(reasons)}")


def _list_class_names(splits: list[Path]) -> list[str]:
    """The classes of all splits, in alphabetical order."""
    names = set()
    for split in splits:
        names.update(subfolder.name for subfolder in _list_subfolders(split))
    return sorted(names)


def _list_files(
    folder: Path,
    class_names: list[str],
    found: FoundFiles,
) -> list[ImageFile]:
    """The images of every class.

    Raises:
        ValueError: A class has no images.
    """
    paths_of_class: dict[str, list[Path]] = {name: [] for name in class_names}
    depth = len(folder.parts)
    for path in found.images:
        is_in_class = path.parts[:depth] == folder.parts and len(path.parts) > depth + 1
        if is_in_class:
            paths_of_class[path.parts[depth]].append(path)
    files = []
    for label, name in enumerate(class_names):
        paths = paths_of_class[name]
        if not paths:
            raise ValueError(f"{folder / name} must hold images ({', '.join(SUFFIXES)}), got none")
        files += [ImageFile(path, label) for path in paths]
    return files


def _list_subfolders(folder: Path) -> list[Path]:
    subfolders = []
    for path in folder.iterdir():
        if path.is_dir() and not is_hidden(path.name):
            subfolders.append(path)
    return sorted(subfolders)


def _join_names(paths: list[Path]) -> str:
    return join_first([path.name for path in paths])
