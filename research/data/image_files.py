"""Image files: found in a folder, and read in 8 bits a channel and upright."""

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from research.config.paths import real_path

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
HIDDEN_NAMES = ("__MACOSX", "@eaDir")  # what macOS and Synology's servers put next to files
GRAY_MODES = ("1", "L", "LA", "La", "I", "F")  # of Pillow's images; also those of 16 bits
SIXTEEN_BIT_MODE = "I;16"  # the first characters of Pillow's names for it
# Pillow reads 16 bits of these formats as 32-bit integers.
SIXTEEN_BIT_FORMATS = ("PNG", "PPM")
UNKNOWN_RANGES = {"I": "integers of 32 bits or with a sign", "F": "real numbers"}


@dataclass(frozen=True)
class FoundFiles:
    """What a folder holds, with its sub-folders.

    Attributes:
        images: Image files, sorted.
        others: Files that are no images.
        hidden: Hidden files, and all files in hidden folders.
    """

    images: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()


def find_files(folder: Path) -> FoundFiles:
    """All files in a folder and its sub-folders. Links to folders are followed."""
    images = []
    others = []
    hidden = []
    for path in _iter_files(folder, frozenset()):
        if _has_hidden_part(path.relative_to(folder)):
            hidden.append(path)
        elif path.suffix.lower() in SUFFIXES:
            images.append(path)
        else:
            others.append(path)
    return FoundFiles(tuple(sorted(images)), tuple(others), tuple(hidden))


def _iter_files(folder: Path, outer_folders: frozenset[Path]) -> Iterator[Path]:
    """The files in a folder and its sub-folders, unless one of ``outer_folders`` is this folder."""
    here = real_path(folder)
    if here in outer_folders:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if entry.is_dir():
                yield from _iter_files(path, outer_folders | {here})
            else:
                yield path


def last_change(path: Path) -> int:
    """When a file, or a folder with its sub-folders to the second level, was last changed, in ns.

    An image that is overwritten in its place is not noticed. Zero for what cannot be read.
    """
    folders = [path, *path.glob("*/"), *path.glob("*/*/")]
    times = [0]
    for folder in folders:
        with contextlib.suppress(OSError):
            times.append(folder.stat().st_mtime_ns)
    return max(times)


def ignore_pillow_warnings() -> None:
    """Keeps Pillow from printing warnings, such as about Exif data that it cannot read.

    What cannot be used raises an error. This is not undone, because images are read on threads.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out."""
    return name.startswith(".") or name in HIDDEN_NAMES


def _has_hidden_part(path: Path) -> bool:
    return any(is_hidden(part) for part in path.parts)


def read_image(path: Path, channels: int) -> np.ndarray:
    """An image [H, W, C] uint8, in gray for one channel and in color for three.

    It is turned as its Exif orientation says. Of 16 bits, the upper 8 are kept.

    Raises:
        ValueError: The file is not an image, it is damaged, or it holds numbers whose range is not
            known.
    """
    from PIL import Image, ImageOps

    with _open(path) as image:
        is_wide = _has_16_bits(image)
        description = UNKNOWN_RANGES.get(image.mode)
        if description and not is_wide:
            raise ValueError(
                f"{show_path(path)} must have 8 or 16 bits in each channel, got {description}: "
                "convert it, or use data=arrays"
            )
        try:
            upright = ImageOps.exif_transpose(image)
            if is_wide:
                gray = (np.asarray(upright) >> 8).astype(np.uint8)
                upright = Image.fromarray(gray)
            pixels = np.asarray(upright.convert("L" if channels == 1 else "RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            raise _not_an_image(path) from None
    return pixels.reshape(*pixels.shape[:2], channels)


def count_channels(paths: Iterable[Path]) -> int:
    """Three if an image has color, else one. Files are opened until one has color.

    Raises:
        ValueError: A file is not an image, or it is damaged.
    """
    for path in paths:
        with _open(path) as image:
            is_gray = image.mode in GRAY_MODES or image.mode.startswith(SIXTEEN_BIT_MODE)
        if not is_gray:
            return 3
    return 1


def _open(path: Path) -> Any:
    from PIL import Image

    if not path.is_file():  # opening a pipe would wait for ever
        raise _not_an_image(path)
    try:
        return Image.open(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise _not_an_image(path) from None


def _not_an_image(path: Path) -> ValueError:
    return ValueError(
        f"{show_path(path)} is not an image, or it is damaged, or Pillow cannot read its format"
    )


def show_path(path: Path) -> str:
    """The path as text on one line: control characters become escape sequences."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(path))


def _has_16_bits(image: Any) -> bool:
    if image.mode.startswith(SIXTEEN_BIT_MODE):
        return True
    return image.mode == "I" and image.format in SIXTEEN_BIT_FORMATS
