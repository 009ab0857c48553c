"""Pictures of few colours for dashboards: axes, text and coloured cells, drawn without matplotlib.

A figure of matplotlib would take longer than the training of a small network, and so would the
import. A pixel is one byte, the number of its colour in ``PALETTE``.
"""

import functools
import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from research.records.trackers.colors import VIRIDIS
from research.records.trackers.media import Picture

WIDTH = 675
HEIGHT = 480
TEXT_SIZE = 14
TICK_LENGTH = 5
MAX_TICKS = 6
LEGEND_SQUARE = 11

WHITE = 0
TEXT = 14  # the colours from white to this one are shades of grey, for the edges of letters
GREY = 9
MISSING = 15  # where a value is zero or not finite
FIRST_OF_SCALE = 16
TEXT_COLOR = (38, 38, 38)
MISSING_COLOR = (217, 217, 217)
LEFT_OUT = np.arange(8, 256, 16)  # colours of the scale that are drawn as the one before


def _make_palette() -> np.ndarray:
    """The colours [256, 3] as red, green and blue."""
    share = np.linspace(0, 1, TEXT + 1)[:, np.newaxis]
    shades = np.round(255 - share * (255 - np.array(TEXT_COLOR)))
    scale = np.delete(VIRIDIS, LEFT_OUT, axis=0)
    return np.concatenate([shades, [MISSING_COLOR], scale]).astype(np.uint8)


def _number_scale() -> np.ndarray:
    """The number in the palette of each of the 256 colours of the scale."""
    is_kept = np.ones(len(VIRIDIS), bool)
    is_kept[LEFT_OUT] = False
    return (FIRST_OF_SCALE + np.cumsum(is_kept) - 1).astype(np.uint8)


PALETTE = _make_palette()
SCALE = _number_scale()


@dataclass(frozen=True)
class Box:
    """A part of the picture in pixels; the lower right corner is not part of it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.bottom - self.top


MAP = Box(left=62, top=18, right=545, bottom=418)
COLOR_BAR = Box(left=567, top=18, right=587, bottom=418)


class Canvas:
    """A picture that is being drawn.

    Attributes:
        pixels: the number of the colour of each pixel, by row and column.
    """

    def __init__(self):
        self.pixels = np.full((HEIGHT, WIDTH), WHITE, np.uint8)

    def picture(self) -> Picture:
        """The picture as a file."""
        return Picture.encode(self.pixels, PALETTE)

    def part(self, box: Box) -> np.ndarray:
        """The pixels of a box, to be drawn on."""
        return self.pixels[box.top : box.bottom, box.left : box.right]

    def frame(self, box: Box) -> None:
        """Draws a line around a box."""
        rows = slice(box.top - 1, box.bottom + 1)
        columns = slice(box.left - 1, box.right + 1)
        self.pixels[rows, [box.left - 1, box.right]] = TEXT
        self.pixels[[box.top - 1, box.bottom], columns] = TEXT

    def horizontal_axis(
        self,
        box: Box,
        low: float,
        high: float,
        label: str,
    ) -> None:
        """Ticks and a label below a box.

        Args:
            box: the box.
            low: the number at its left edge.
            high: the number at its right edge.
            label: what the numbers are.
        """
        end = box.bottom + TICK_LENGTH
        for tick in _ticks(low, high):
            x = box.left + round((tick - low) / (high - low) * box.width)
            self.pixels[box.bottom : end + 1, x] = TEXT
            self._write(_format(tick), x, end + 3, anchor="ma")
        self._write(label, (box.left + box.right) // 2, HEIGHT - 8, anchor="md")

    def vertical_axis(
        self,
        box: Box,
        low: float,
        high: float,
        label: str,
        *,
        side: str,
    ) -> None:
        """Ticks and a label at one side of a box.

        Args:
            box: the box.
            low: the number at its bottom edge.
            high: the number at its top edge.
            label: what the numbers are.
            side: ``left`` or ``right``.
        """
        is_left = side == "left"
        start = box.left - 1 - TICK_LENGTH if is_left else box.right
        end = start + TICK_LENGTH
        for tick in _ticks(low, high):
            y = box.bottom - round((tick - low) / (high - low) * box.height)
            self.pixels[y, start : end + 1] = TEXT
            if is_left:
                self._write(_format(tick), start - 4, y, anchor="rm")
            else:
                self._write(_format(tick), end + 4, y, anchor="lm")
        x = 9 if is_left else WIDTH - 18
        self._write_upwards(label, x, (box.top + box.bottom) // 2)

    def legend_entry(
        self,
        x: int,
        y: int,
        label: str,
        color: int,
    ) -> None:
        """Draws a square in a colour, with what it stands for.

        Args:
            x: the left edge of the square.
            y: its upper edge.
            label: what the colour stands for.
            color: the number of the colour.
        """
        self.pixels[y : y + LEGEND_SQUARE, x : x + LEGEND_SQUARE] = color
        self._write(label, x + 16, y + LEGEND_SQUARE // 2, anchor="lm")

    def _write(
        self,
        text: str,
        x: int,
        y: int,
        *,
        anchor: str,
    ) -> None:
        """Writes text; ``anchor`` says which place of it is at (x, y), as in Pillow."""
        letters = _render(text, anchor)
        self._paint(letters.pixels, x + letters.left, y + letters.top)

    def _write_upwards(
        self,
        text: str,
        x: int,
        y: int,
    ) -> None:
        """Writes text that reads from bottom to top, with its middle at (x, y)."""
        turned = np.rot90(_render(text, "lt").pixels)
        height, width = turned.shape
        self._paint(turned, x - width // 2, y - height // 2)

    def _paint(
        self,
        letters: np.ndarray,
        left: int,
        top: int,
    ) -> None:
        """Darkens the pixels under letters; what is outside the picture is left out."""
        height, width = letters.shape
        rows = slice(max(0, top), max(0, top + height))
        columns = slice(max(0, left), max(0, left + width))
        place = self.pixels[rows, columns]
        inside = letters[rows.start - top :, columns.start - left :]
        inside = inside[: place.shape[0], : place.shape[1]]
        np.maximum(place, inside, out=place)


@dataclass(frozen=True)
class Letters:
    """Text as shades of grey.

    Attributes:
        pixels: the number of the colour of each pixel, by row and column.
        left: where it begins, from the place of its anchor.
        top: where it begins, from the place of its anchor.
    """

    pixels: np.ndarray
    left: int
    top: int


@functools.lru_cache(maxsize=1000)
def _render(text: str, anchor: str) -> Letters:
    """Renders text, once for all pictures: most of them have the same ticks and labels."""
    font = _load_font()
    left, top, right, bottom = font.getbbox(text, anchor=anchor)
    size = (math.ceil(right) - math.floor(left), math.ceil(bottom) - math.floor(top))
    patch = Image.new("L", size)
    start = (-math.floor(left), -math.floor(top))
    ImageDraw.Draw(patch).text(start, text, fill=255, font=font, anchor=anchor)
    shades = np.round(np.asarray(patch) / 255 * TEXT).astype(np.uint8)
    return Letters(shades, math.floor(left), math.floor(top))


@functools.cache
def _load_font() -> ImageFont.FreeTypeFont:
    """The font of matplotlib, which is found without importing matplotlib."""
    spec = find_spec("matplotlib")
    assert spec is not None and spec.origin is not None
    file = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(file, TEXT_SIZE)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high``; whole ones where the range allows."""
    step = _tick_step((high - low) / MAX_TICKS, is_whole=high - low >= 4)
    first = math.ceil(low / step)
    last = math.floor(high / step)
    return [number * step for number in range(first, last + 1)]


def _tick_step(least: float, *, is_whole: bool) -> float:
    """The least round number that is not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    for factor in (1, 2, 2.5, 5):
        step = factor * power
        if step >= least and not (is_whole and step % 1):
            return step
    return 10 * power


def _format(tick: float) -> str:
    return f"{tick:.6g}".replace("-", "−")
