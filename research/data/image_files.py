"""Image files: found in a folder, and read upright in one format."""

import collections
import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from research.config.notices import notify_once, on_one_line
from research.config.paths import real_path

SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".bmp",
    ".gif",
    ".webp",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".tif",
    ".tiff",
    ".tga",
    ".jp2",
)
HIDDEN_NAMES = ("__MACOSX", "@eaDir")  # what macOS and Synology's servers put next to files
GRAY_MODES = ("1", "L", "LA", "La", "I", "F")  # of Pillow's images; also those of 16 bits
PALETTE_MODES = ("P", "PA")
SIXTEEN_BIT_MODE = "I;16"  # the first characters of Pillow's names for it
# Pillow reads 16 bits of these formats as 32-bit integers.
SIXTEEN_BIT_FORMATS = ("PNG", "PPM")
SINGLE_CHANNELS_OF_16_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes
RATIO_OF_16_TO_8_BITS = 257  # 65535 / 255
OPAQUE = 255
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
    for entry in _iter_entries(folder):
        if entry.is_dir():
            continue
        path = Path(entry.path)
        if _has_hidden_part(path.relative_to(folder)):
            hidden.append(path)
        elif path.suffix.lower() in SUFFIXES:
            images.append(path)
        else:
            others.append(path)
    return FoundFiles(tuple(sorted(images)), tuple(others), tuple(hidden))


def _iter_entries(
    folder: str | Path,
    outer_folders: frozenset[Path] = frozenset(),
) -> Iterator[os.DirEntry[str]]:
    """The files and folders in a folder and its sub-folders.

    Nothing of a folder that is one of ``outer_folders``.
    """
    here = real_path(Path(folder))
    if here in outer_folders:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir():
                yield from _iter_entries(entry.path, outer_folders | {here})


def last_change(path: Path) -> int:
    """When a file, or a folder with all that it holds, was last changed, in ns.

    Zero for what cannot be read.
    """
    latest = 0
    with contextlib.suppress(OSError):
        latest = path.stat().st_mtime_ns
    if not path.is_dir():
        return latest
    for entry in _iter_entries(path):
        with contextlib.suppress(OSError):
            latest = max(latest, entry.stat().st_mtime_ns)
    return latest


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


@dataclass(frozen=True)
class PixelFormat:
    """How all images of a folder are read.

    Attributes:
        channels: One for gray images, three for color.
        dtype: uint8, or uint16 for gray images if any of them has 16 bits.
    """

    channels: int
    dtype: type[np.unsignedinteger] = np.uint8


def find_pixel_format(paths: Iterable[Path]) -> PixelFormat:
    """In color if a file is. Files are opened until one is in color.

    Gray images that are stored as RGB are in color; those with a palette of grays are gray.

    Raises:
        ValueError: A file is not an image, or it is damaged.
    """
    dtype: type[np.unsignedinteger] = np.uint8
    for path in paths:
        with _open(path) as image:
            is_wide = _has_16_bits(image)
            is_gray = _is_gray(image, path)
        if not is_gray:
            return PixelFormat(channels=3)
        if is_wide:
            dtype = np.uint16
    return PixelFormat(channels=1, dtype=dtype)


class ImageReader:
    """Reads image files as one format, and counts what of them is left out.

    Attributes:
        pixel_format: What all images become.
        num_read: Number of images that were read.
        losses: Number of images of which something is left out, by what that is.
    """

    def __init__(self, pixel_format: PixelFormat):
        """Read images of a format."""
        self.pixel_format = pixel_format
        self.num_read = 0
        self.losses: collections.Counter[str] = collections.Counter()

    def read(self, path: Path) -> np.ndarray:
        """An image [H, W, C], turned as its Exif orientation says.

        Where images of 16 bits are read as 8, the upper 8 are kept. Gray images of 8 bits are
        multiplied by 257 where others have 16. Of several frames, the first is read. Colors are
        read as they are under transparency.

        Raises:
            ValueError: The file is not an image, it is damaged, or it holds numbers whose range is
                not known.
        """
        from PIL import Image, ImageOps

        with _open(path) as image:
            is_wide = _has_16_bits(image)
            description = UNKNOWN_RANGES.get(image.mode)
            if description and not is_wide:
                raise ValueError(
                    f"{on_one_line(path)} must have 8 or 16 bits in each channel, got "
                    f"{description}: convert it, or use data=arrays"
                )
            try:
                upright = ImageOps.exif_transpose(image)
                losses = self._find_losses(upright, is_wide=is_wide)
                if getattr(image, "is_animated", False):
                    losses.append("frames after the first")
                pixels = self._convert(upright, is_wide=is_wide)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise _not_readable(path, error) from None
        self.num_read += 1
        self.losses.update(losses)
        return pixels.reshape(*pixels.shape[:2], self.pixel_format.channels)

    def _find_losses(self, upright: Any, *, is_wide: bool) -> list[str]:
        """What of the first frame of an image will not be in its pixels."""
        losses = []
        if _has_transparency(upright):
            losses.append("transparency")
        keeps_16_bits = self.pixel_format.dtype is np.uint16
        if is_wide and not (keeps_16_bits and upright.mode in SINGLE_CHANNELS_OF_16_BITS):
            losses.append("the lower 8 of 16 bits")
        return losses

    def _convert(self, upright: Any, *, is_wide: bool) -> np.ndarray:
        from PIL import Image

        keeps_16_bits = self.pixel_format.dtype is np.uint16
        if is_wide and upright.mode in SINGLE_CHANNELS_OF_16_BITS:
            wide = np.asarray(upright).astype(np.uint16)
            if keeps_16_bits:
                return wide
            upright = Image.fromarray((wide >> 8).astype(np.uint8))
        mode = "L" if self.pixel_format.channels == 1 else "RGB"
        pixels = np.asarray(upright.convert(mode))
        return pixels * np.uint16(RATIO_OF_16_TO_8_BITS) if keeps_16_bits else pixels

    def report_losses(self, folder: Path) -> None:
        """Say in one line what of the images that were read is left out, if anything is."""
        counts = [f"{what} ({count})" for what, count in self.losses.items()]
        if counts:
            notify_once(
                f"{folder}: left out of the {self.num_read} images that were read: "
                f"{', '.join(counts)}"
            )


def _open(path: Path) -> Any:
    from PIL import Image

    if not path.is_file():  # opening a pipe would wait for ever
        if path.is_symlink():
            raise ValueError(
                f"{on_one_line(path)} is a link to {path.readlink()}, which is no file"
            )
        raise _not_readable(path)
    try:
        return Image.open(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _not_readable(path, error) from None


def _not_readable(path: Path, error: Exception | None = None) -> ValueError:
    from PIL import Image

    if isinstance(error, Image.DecompressionBombError):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return ValueError(f"{on_one_line(path)} has more than the {most} pixels that Pillow reads")
    reason = getattr(error, "strerror", None)  # of the operating system, such as missing rights
    if reason:
        return ValueError(f"{on_one_line(path)} cannot be read: {reason}")
    return ValueError(
        f"{on_one_line(path)} is not an image, or it is damaged, or Pillow cannot read its format"
    )


def _has_16_bits(image: Any) -> bool:
    """Whether a file that was opened and not yet read holds 16 bits a channel."""
    if image.mode.startswith(SIXTEEN_BIT_MODE):
        return True
    if image.mode in UNKNOWN_RANGES:
        return image.mode == "I" and image.format in SIXTEEN_BIT_FORMATS
    return any(";16" in str(tile.args) for tile in image.tile)


def _is_gray(image: Any, path: Path) -> bool:
    """Whether a file that was opened stores gray pixels, or a palette of grays."""
    if image.mode in PALETTE_MODES:
        try:
            levels = np.reshape(image.getpalette("RGB"), (-1, 3))
        except (OSError, SyntaxError, ValueError) as error:
            raise _not_readable(path, error) from None
        return bool((levels == levels[:, :1]).all())
    return image.mode in GRAY_MODES or image.mode.startswith(SIXTEEN_BIT_MODE)


def _has_transparency(image: Any) -> bool:
    if not image.has_transparency_data:
        return False
    alpha = image.convert("RGBA").getchannel("A")
    least, _ = alpha.getextrema()
    return least < OPAQUE
