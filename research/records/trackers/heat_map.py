"""A heat map of a profile over training, for dashboards.

It is drawn pixel by pixel and without matplotlib: a figure would take longer than the training of a
small network, and so would the import.
"""

import functools
import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from research.records.trackers.colors import VIRIDIS

SIZE = (675, 480)
TEXT_SIZE = 14
TICK_LENGTH = 5
TEXT_COLOR = (38, 38, 38)
MISSING_COLOR = (217, 217, 217)  # where a value is zero or not finite
MAX_TICKS = 6


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


def heat_map(
    steps: np.ndarray,
    profile: np.ndarray,
    *,
    label: str,
    first_layer: int = 0,
) -> Image.Image:
    """Draws log₁₀ of a profile: training steps on the horizontal axis, layers on the vertical one.

    Args:
        steps: the measured steps [S], in order.
        profile: one value for each step and layer [S, N].
        label: the title of the colour bar.
        first_layer: the layer of the first entry; −1 for the input of layer 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(np.asarray(profile, np.float64)).T
    low, high = _range_of(logs)
    step_edges = _step_edges(steps)
    picture = Image.new("RGB", SIZE, "white")
    columns = _to_columns(_colored(logs, low, high), step_edges)
    _paste(picture, columns[::-1], MAP)  # the first layer is at the bottom
    gradient = np.linspace(high, low, COLOR_BAR.height)
    _paste(picture, _colored(gradient[:, np.newaxis], low, high), COLOR_BAR)
    pen = Pen(picture)
    pen.frame(MAP)
    pen.frame(COLOR_BAR)
    pen.horizontal_axis(MAP, step_edges[0], step_edges[-1], "training step")
    low_edge = first_layer - 0.5
    axis = "layer" if first_layer == 0 else "layer (−1: the input)"
    pen.vertical_axis(MAP, low_edge, low_edge + len(logs), axis, side="left")
    pen.vertical_axis(COLOR_BAR, low, high, label, side="right")
    return picture


def _range_of(logs: np.ndarray) -> tuple[float, float]:
    """The least and the greatest finite number, at least a little apart."""
    finite = logs[np.isfinite(logs)]
    if not len(finite):
        return -0.5, 0.5
    low = float(np.min(finite))
    high = float(np.max(finite))
    if high - low < 1e-6:
        return low - 0.5, high + 0.5
    return low, high


def _step_edges(steps: np.ndarray) -> np.ndarray:
    """The borders of the map's columns: each step, and the end of the last one."""
    width = 1
    if len(steps) > 1:
        width = steps[1] - steps[0]
    return np.append(steps, steps[-1] + width)


def _to_columns(colors: np.ndarray, step_edges: np.ndarray) -> np.ndarray:
    """The colours of each column of pixels [N, W, 3], from those of the steps [N, S, 3]."""
    centers = (np.arange(MAP.width) + 0.5) / MAP.width
    step_of_pixel = step_edges[0] + centers * (step_edges[-1] - step_edges[0])
    column_of_pixel = np.searchsorted(step_edges, step_of_pixel, side="right") - 1
    return colors[:, column_of_pixel]


def _paste(
    picture: Image.Image,
    colors: np.ndarray,
    box: Box,
) -> None:
    """Fills a box with colours [rows, columns, 3], each in a cell of the same size."""
    cells = Image.fromarray(np.ascontiguousarray(colors))
    pixels = cells.resize((box.width, box.height), Image.Resampling.NEAREST)
    picture.paste(pixels, (box.left, box.top))


def _colored(
    values: np.ndarray,
    low: float,
    high: float,
) -> np.ndarray:
    """The colours [H, W, 3] of numbers [H, W] on a scale from ``low`` to ``high``."""
    last_color = len(VIRIDIS) - 1
    is_finite = np.isfinite(values)
    share = (np.where(is_finite, values, low) - low) / (high - low)
    colored = VIRIDIS[np.clip(share * len(VIRIDIS), 0, last_color).astype(int)]
    colored[~is_finite] = MISSING_COLOR
    return colored


class Pen:
    """Draws frames, ticks and labels."""

    def __init__(self, picture: Image.Image):
        self.picture = picture
        self.draw = ImageDraw.Draw(picture)
        self.font = _load_font()

    def frame(self, box: Box) -> None:
        """A line around a box."""
        corners = (box.left - 1, box.top - 1, box.right, box.bottom)
        self.draw.rectangle(corners, outline=TEXT_COLOR)

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
        for tick in _ticks(low, high):
            x = box.left + (tick - low) / (high - low) * box.width
            self.draw.line((x, box.bottom, x, box.bottom + TICK_LENGTH), fill=TEXT_COLOR)
            self._text((x, box.bottom + TICK_LENGTH + 3), _format(tick), anchor="ma")
        middle = (box.left + box.right) / 2
        self._text((middle, SIZE[1] - 8), label, anchor="md")

    def vertical_axis(
        self,
        box: Box,
        low: float,
        high: float,
        label: str,
        *,
        side: str,
    ) -> None:
        """Ticks and a label beside a box.

        Args:
            box: the box.
            low: the number at its bottom edge.
            high: the number at its top edge.
            label: what the numbers are.
            side: ``left`` or ``right``.
        """
        is_left = side == "left"
        edge = box.left - 1 if is_left else box.right
        outside = edge - TICK_LENGTH if is_left else edge + TICK_LENGTH
        for tick in _ticks(low, high):
            y = box.bottom - (tick - low) / (high - low) * box.height
            self.draw.line((edge, y, outside, y), fill=TEXT_COLOR)
            gap = -4 if is_left else 4
            self._text((outside + gap, y), _format(tick), anchor="rm" if is_left else "lm")
        self._vertical_text(label, 9 if is_left else SIZE[0] - 18, (box.top + box.bottom) // 2)

    def legend_entry(
        self,
        x: int,
        y: int,
        label: str,
        color: tuple[int, ...],
    ) -> None:
        """A square in a colour, with what it stands for.

        Args:
            x: the left edge of the square.
            y: its upper edge.
            label: what the colour stands for.
            color: red, green and blue.
        """
        self.draw.rectangle((x, y, x + 10, y + 10), fill=color)
        self._text((x + 16, y + 5), label, anchor="lm")

    def _text(
        self,
        position: tuple[float, float],
        text: str,
        *,
        anchor: str,
    ) -> None:
        self.draw.text(position, text, fill=TEXT_COLOR, font=self.font, anchor=anchor)

    def _vertical_text(
        self,
        text: str,
        x: int,
        y: int,
    ) -> None:
        """Text that reads from bottom to top, with its middle at (x, y)."""
        left, top, right, bottom = self.font.getbbox(text)
        width = int(right - left)
        height = int(bottom - top)
        patch = Image.new("RGB", (width, height), "white")
        ImageDraw.Draw(patch).text((-left, -top), text, fill=TEXT_COLOR, font=self.font)
        turned = patch.rotate(90, expand=True)
        self.picture.paste(turned, (x - height // 2, y - width // 2))


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
