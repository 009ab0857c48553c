"""Image files: a folder with a sub-folder for each class, or with such a folder for each split."""

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from research.config.data_options import FolderData
from research.config.notices import join_first, notify_once, on_one_line
from research.config.paths import expand_home
from research.data.dataset import (
    Dataset,
    DatasetInfo,
    LabeledArrays,
    hash_sources,
    make_standardized_dataset,
    select_splits,
)
from research.data.image_files import (
    SUFFIXES,
    FoundFiles,
    ImageReader,
    PixelFormat,
    find_files,
    find_pixel_format,
    ignore_pillow_warnings,
    is_hidden,
    last_change,
)
from research.data.images import center_crop_and_resize
from research.data.splits import choose_test_positions, describe_parts
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
    """What a folder holds.

    Attributes:
        splits: The files of each split.
        class_names: Names of the classes by number.
        shape: Height and width of the first image, and channels of all.
        pixel_format: What all images are read as.
        remarks: Lines about what a user may not expect.
    """

    splits: dict[str, list[ImageFile]]
    class_names: list[str]
    shape: ImageShape
    pixel_format: PixelFormat
    remarks: tuple[str, ...]

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of images in each split."""
        sizes = {}
        for split, files in self.splits.items():
            sizes[split] = len(files)
        return sizes

    @property
    def bytes_per_number(self) -> int:
        """Size of one channel of a pixel."""
        return np.dtype(self.pixel_format.dtype).itemsize


class ImageFileSource:
    """Image files as raw examples by position."""

    def __init__(
        self,
        files: list[ImageFile],
        reader: ImageReader,
        shape: ImageShape | None,
    ):
        """Wrap files.

        Args:
            files: The files.
            reader: Reads a file.
            shape: Height, width and channels that every image must have; None if all are resized.
        """
        self.labels = np.array([file.label for file in files], np.int32)
        self._files = files
        self._reader = reader
        self._shape = shape

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, object]:
        file = self._files[index]
        image = _read_image(file.path, self._reader, self._shape)
        return {"image": image, "label": file.label}


def describe(data: FolderData) -> DatasetInfo:
    """What the folder holds. Images are opened until one has color.

    Raises:
        ValueError: There is no such folder, it has no classes, or a class has no images.
    """
    ignore_pillow_warnings()
    folder = _find_images(data)
    return DatasetInfo(
        splits=folder.split_sizes,
        shape=_image_shape(folder, data),
        bytes_per_number=folder.bytes_per_number,
    )


def load_folder(data: FolderData) -> Dataset:
    """The images, in memory or streamed. Classes are numbered in the order of their names as text.

    Lines on standard error say which files are left out, and what of the images.
    """
    ignore_pillow_warnings()
    folder = _find_images(data)
    shape = _image_shape(folder, data)
    classes = len(folder.class_names)
    version = Path(data.path or "").name
    reader = ImageReader(folder.pixel_format)
    required_shape = None if data.size else shape

    def open_records(split: str) -> ImageFileSource:
        return ImageFileSource(folder.splits[split], reader, required_shape)

    def read(split: str) -> LabeledArrays:
        return _read_images(open_records(split), shape)

    if must_stream(data, math.prod(shape) * folder.bytes_per_number, folder.split_sizes):
        streamed = make_streamed_dataset(
            data,
            folder.split_sizes,
            open_records,
            ImageFormat(shape, classes),
            name="folder",
            version=version,
            shuffle=True,
            class_names=folder.class_names,
        )
        _report_remarks(folder, reader, data)
        return streamed
    selected = select_splits(data, folder.split_sizes, read, classes, shuffle=True)
    _report_remarks(folder, reader, data)
    return make_standardized_dataset(
        selected,
        name="folder",
        version=version,
        split=data.split,
        shape=shape,
        classes=classes,
        class_names=folder.class_names,
    )


def _report_remarks(
    folder: ImageFolder,
    reader: ImageReader,
    data: FolderData,
) -> None:
    """Say what of the folder and of the images that were read is left out."""
    for line in folder.remarks:
        notify_once(line)
    reader.report_losses(Path(data.path or ""))


def _read_images(records: ImageFileSource, shape: ImageShape) -> LabeledArrays:
    """All images as rows [n, features], and their labels [n] int32."""
    rows = []
    sources = []
    for position in range(len(records)):
        image = records[position]["image"]
        assert isinstance(image, np.ndarray)
        sources.append((image.shape, hash(image.tobytes())))
        rows.append(center_crop_and_resize(image, shape).reshape(-1))
    return LabeledArrays(np.stack(rows), records.labels, hash_sources(sources))


def _read_image(
    path: Path,
    reader: ImageReader,
    shape: ImageShape | None,
) -> np.ndarray:
    """An image [H, W, C], of the shape that is required if there is one."""
    image = reader.read(path)
    if shape is not None and image.shape != shape:
        height, width, _ = image.shape
        raise ValueError(
            f"{on_one_line(path)} must be an image of height {shape[0]} and width {shape[1]} like "
            f"the first one, got {height} and {width}: data.size=… resizes all images to one size"
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
    images = _list_images(folder, folder.absolute(), last_change(folder))
    _check_split_holds_images(images, "data.split", data.split)
    _check_split_holds_images(images, "data.eval_split", data.eval_split)
    return images


def _check_split_holds_images(
    folder: ImageFolder,
    path: str,
    split: str,
) -> None:
    """Raises ValueError for the folder of a split that holds images, if any, outside of classes."""
    name, _, _ = split.partition("[")
    if folder.splits.get(name) == []:
        raise ValueError(
            f"{path} must hold examples: {name} has no image in a folder of a class, got {split}; "
            f"use {describe_parts('train')}"
        )


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
            files = _list_files(subfolder, class_names, found)
            if split == "train":
                _check_classes(subfolder, class_names, files)
            splits[split] = files
    else:
        class_names = [subfolder.name for subfolder in _list_subfolders(folder)]
        files = _list_files(folder, class_names, found)
        _check_classes(folder, class_names, files)
        train_positions, test_positions = choose_test_positions(len(files))
        splits = {
            "train": [files[n] for n in train_positions],
            "test": [files[n] for n in test_positions],
        }
    used_paths = []
    for files in splits.values():
        used_paths += [file.path for file in files]
    remarks = [
        *_describe_classes_like_splits(folder, [] if split_folders else class_names),
        *_describe_numbered_classes(folder, class_names),
        *_describe_unused(folder, found, used_paths),
        *_describe_nested(folder, used_paths, levels=3 if split_folders else 2),
    ]
    first_path = splits["train"][0].path
    pixel_format = find_pixel_format([first_path, *used_paths])
    shape = ImageReader(pixel_format).read(first_path).shape
    return ImageFolder(splits, class_names, shape, pixel_format, tuple(remarks))


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


def _describe_classes_like_splits(folder: Path, class_names: list[str]) -> list[str]:
    """A line with the classes whose folders are called as those of splits, if there are any."""
    like_splits = []
    others = []
    for name in class_names:
        names = like_splits if _split_of(folder / name) else others
        names.append(name)
    if not like_splits:
        return []
    return [
        f"{folder}: {join_first(like_splits)} is read as a class and not as a split, because "
        f"there are no sub-folders in it, and next to it is {join_first(others)}"
    ]


def _describe_numbered_classes(folder: Path, class_names: list[str]) -> list[str]:
    """A line if the names of classes are numbers in another order than as text, such as 10 and 2.

    Otherwise class 2 could be taken for the folder 2.
    """
    numbers = [int(name) for name in class_names if name.isascii() and name.isdigit()]
    if len(numbers) < len(class_names) or numbers == sorted(numbers):
        return []
    pairs = zip(class_names, sorted(numbers), strict=True)
    label, name = next(
        (label, name) for label, (name, number) in enumerate(pairs) if int(name) != number
    )
    return [
        f"{folder}: classes are numbered in the order of their names as text, so folder {name} is "
        f"class {label}; names such as 02 keep numbers in order"
    ]


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


def _describe_unused(
    folder: Path,
    found: FoundFiles,
    used: list[Path],
) -> list[str]:
    """A line with the numbers of files that are left out, if any are."""
    counts = {
        "hidden": len(found.hidden),
        f"with other endings ({_list_endings(found.others)})": len(found.others),
        "outside of the folders of classes": len(found.images) - len(used),
    }
    reasons = []
    for reason, count in counts.items():
        if count:
            reasons.append(f"{count} {reason}")
    return [f"{folder}: files left out: {', '.join(reasons)}"] if reasons else []


def _list_endings(paths: Sequence[Path]) -> str:
    endings = {path.suffix or path.name for path in paths}
    return join_first(sorted(endings))


def _describe_nested(
    folder: Path,
    used: list[Path],
    levels: int,
) -> list[str]:
    """A line with the number of images deeper than in the folder of their class, if any are."""
    nested = []
    for path in used:
        if len(path.relative_to(folder).parts) > levels:
            nested.append(path)
    if not nested:
        return []
    example = nested[0].parent.relative_to(folder)
    return [
        f"{folder}: images in folders inside of the folders of classes, such as {example}, "
        f"belong to these classes ({len(nested)})"
    ]


def _list_class_names(splits: list[Path]) -> list[str]:
    """The classes of all splits, in the order of their names as text."""
    names = set()
    for split in splits:
        names.update(subfolder.name for subfolder in _list_subfolders(split))
    return sorted(names)


def _list_files(
    folder: Path,
    class_names: list[str],
    found: FoundFiles,
) -> list[ImageFile]:
    """The images of every class."""
    paths_of_class: dict[str, list[Path]] = {name: [] for name in class_names}
    depth = len(folder.parts)
    for path in found.images:
        is_in_class = path.parts[:depth] == folder.parts and len(path.parts) > depth + 1
        if is_in_class:
            paths_of_class[path.parts[depth]].append(path)
    files = []
    for label, name in enumerate(class_names):
        files += [ImageFile(path, label) for path in paths_of_class[name]]
    return files


def _check_classes(
    folder: Path,
    class_names: list[str],
    files: list[ImageFile],
) -> None:
    """Raises ValueError unless there are two classes or more, and images of each."""
    present = {file.label for file in files}
    missing = [name for label, name in enumerate(class_names) if label not in present]
    if missing:
        class_folder = folder / missing[0]
        reason = "" if class_folder.is_dir() else ", and other splits have this class"
        raise ValueError(
            f"{class_folder} must hold images ({', '.join(SUFFIXES)}), got none{reason}"
        )
    if len(class_names) < 2:
        got = ", ".join(class_names) or "none"
        inner = _list_subfolders(folder / class_names[0]) if class_names else []
        hint = f": data.path={folder / class_names[0]} may be that folder" if inner else ""
        raise ValueError(
            f"{folder} must hold a sub-folder of images for each of at least two classes, "
            f"got {got}{hint}"
        )


def _list_subfolders(folder: Path) -> list[Path]:
    subfolders = []
    for path in folder.iterdir():
        if path.is_dir() and not is_hidden(path.name):
            subfolders.append(path)
    return sorted(subfolders)


def _join_names(paths: list[Path]) -> str:
    return join_first([path.name for path in paths])
