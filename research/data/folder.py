"""Images of the user's own: a folder with a sub-folder for each class, or with such a folder for each split."""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from research.config.data_options import Data
from research.data.dataset import Columns, Dataset, Known, chosen, standardised
from research.data.pictures import fitted
from research.data.splits import cut
from research.data.streamed import SAMPLE, Recorded, sampled

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
Labelled = list[tuple[Path, int]]


class Listed(NamedTuple):
    """The files of each split with their classes, the classes' names, and the first image's shape."""

    splits: dict[str, Labelled]
    classes: list[str]
    shape: tuple[int, int, int]


class Files:
    """Image files as examples by number."""

    def __init__(self, files: Labelled, channels: int):
        self.files = files
        self.channels = channels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, object]:
        file, label = self.files[index]
        return {"image": read_image(file, self.channels), "label": label}


def describe(data: Data) -> Known:
    """What the folder holds, by its first image.

    Raises:
        ValueError: there is no such folder, it holds no classes, or a class holds no images.
    """
    listed = _found(data)
    return Known({name: len(files) for name, files in listed.splits.items()}, _shape(listed, data))


def load_folder(data: Data) -> Dataset:
    """The images, in memory or streamed; classes are numbered in the order of their names."""
    listed = _found(data)
    shape = _shape(listed, data)
    sizes = {name: len(files) for name, files in listed.splits.items()}
    about = ("folder", Path(data.path or "").name, data.split)
    classes = len(listed.classes)
    if data.resized_crop or math.prod(shape) * sum(sizes.values()) > data.in_memory_limit * 1e9:
        train, held_out = _streamed(listed, data, shape)
        (x, y) = sampled(train, SAMPLE)
        (eval_x, eval_y) = sampled(held_out, SAMPLE)
        rows = (x, y, eval_x, eval_y)
        return Dataset(
            *about, *rows, shape, classes, *standardised(x), train=train, held_out=held_out
        )
    columns = chosen(
        data,
        sizes,
        lambda split: _pixels(listed.splits[split], shape, resize=bool(data.size)),
        classes,
    )
    return Dataset(*about, *columns, shape, classes, *standardised(columns[0]))


def _streamed(listed: Listed, data: Data, shape: tuple[int, ...]) -> tuple[Recorded, Recorded]:
    sizes = {name: len(files) for name, files in listed.splits.items()}
    (split, part) = cut(data.split, sizes)
    (eval_split, eval_part) = cut(data.eval_split, sizes, "data.eval_split")
    files, eval_files = (Files(listed.splits[name], shape[-1]) for name in (split, eval_split))
    features = ("image", "label", len(listed.classes))
    return (
        Recorded(files, part, data.limit, shape, *features, data.label_noise, data.resized_crop),
        Recorded(eval_files, eval_part, None, shape, *features),
    )


def _pixels(files: Labelled, shape: tuple[int, ...], *, resize: bool) -> Columns:
    rows = []
    for file, _ in files:
        image = read_image(file, shape[-1])
        if image.shape != shape and not resize:
            raise ValueError(
                f"{file} must be an image of {shape[0]}×{shape[1]} pixels as the first one is, got "
                f"{image.shape[0]}×{image.shape[1]}: data.size=… brings all to one size"
            )
        rows.append(fitted(image, shape).reshape(-1))
    return np.stack(rows), np.array([label for _, label in files], np.int32)


def read_image(file: Path, channels: int) -> np.ndarray:
    """An image [H, W, C] uint8, grey for one channel and in colour for three.

    Raises:
        ValueError: the file is no image, or a damaged one.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ValueError(f"{file} is no image, or a damaged one") from None
    return pixels.reshape(*pixels.shape[:2], channels)


def _shape(listed: Listed, data: Data) -> tuple[int, int, int]:
    return (data.size, data.size, listed.shape[-1]) if data.size else listed.shape


def _found(data: Data) -> Listed:
    if not data.path:
        raise ValueError(
            "data.path must be a folder with a sub-folder of images for each class, got none"
        )
    folder = Path(data.path).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"data.path must be a folder with a sub-folder for each class, got {folder}, which is none"
        )
    return _listed(folder, folder.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _listed(folder: Path, changed: int) -> Listed:
    inner = _folders(folder)
    parted = [part for part in inner if part.name in ("train", "test", "validation", "val")]
    if parted and len(parted) == len(inner):
        classes = sorted({own.name for part in parted for own in _folders(part)})
        splits = {part.name: _labelled(part, classes) for part in parted}
        if "train" not in splits:
            raise ValueError(
                f"{folder} must hold a folder train beside {', '.join(sorted(splits))}"
            )
    else:
        classes = [own.name for own in inner]
        splits = _parted(_labelled(folder, classes))
    if len(classes) < 2:
        raise ValueError(f"{folder} must hold a sub-folder of images for each of two classes or more, got "
                         f"{', '.join(classes) or 'none'}")  # fmt: skip
    return Listed(splits, classes, _first_shape(splits["train"]))


def _parted(files: Labelled) -> dict[str, Labelled]:
    """A tenth of the files held out, drawn once and for all."""
    order = np.random.default_rng(0).permutation(len(files))
    held_out = max(1, len(files) // 10)
    return {
        "train": [files[n] for n in sorted(order[held_out:])],
        "test": [files[n] for n in sorted(order[:held_out])],
    }


def _labelled(folder: Path, classes: list[str]) -> Labelled:
    found: Labelled = []
    for number, name in enumerate(classes):
        own = [
            file for file in sorted((folder / name).glob("**/*")) if file.suffix.lower() in SUFFIXES
        ]
        if not own:
            raise ValueError(f"{folder / name} must hold images ({', '.join(SUFFIXES)}), got none")
        found += [(file, number) for file in own]
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(
        part for part in folder.iterdir() if part.is_dir() and not part.name.startswith(".")
    )


def _first_shape(files: Labelled) -> tuple[int, int, int]:
    """Height, width, and one channel where the first image is grey."""
    from PIL import Image

    file, _ = files[0]
    try:
        with Image.open(file) as image:
            return image.height, image.width, 1 if image.mode in ("1", "L", "I", "I;16", "F") else 3
    except OSError:
        raise ValueError(f"{file} is no image, or a damaged one") from None
