"""A profile over depth at a few steps as a picture, for dashboards that show no pages."""

from typing import Any

import numpy as np
from PIL import Image

from research.records.trackers.colors import VIRIDIS
from research.records.trackers.heat_map import COLOR_BAR, MAP, SIZE, Pen
from research.records.trackers.layers import evenly_spaced
from research.records.trackers.profile_page import predict_signal

MAX_LINES = 6
LINE_WIDTH = 3
LAST_COLOR = 225  # brighter ones are hard to see on white
THEORY_COLOR = (120, 120, 120)
DASH = 8  # pixels


def profile_picture(
    steps: np.ndarray,
    signal: np.ndarray,
    *,
    theory: float | None,
) -> Image.Image:
    """Draws log₁₀ ‖∂L/∂h_l‖ over the layers, one line for each of a few steps.

    The line of the first step is dark and the last one bright. What mean-field theory predicts of
    the first step is dashed.

    Args:
        steps: the measured steps [S], in order.
        signal: one value for each step and layer [S, N+1].
        theory: the predicted factor per layer on the square; None if theory has no prediction.
    """
    chosen = evenly_spaced(len(steps), MAX_LINES)
    lines = np.asarray(signal[chosen], np.float64)
    logs = _log10(lines)
    low, high = _range_of(logs)
    picture = Image.new("RGB", SIZE, "white")
    pen = Pen(picture)
    last_layer = signal.shape[1] - 1
    plot = LinePlot(pen, last_layer, low, high)
    colors = VIRIDIS[np.linspace(0, LAST_COLOR, len(chosen)).astype(int)]
    if theory is not None:
        layers = np.arange(last_layer + 1)
        predicted = predict_signal(lines[0, -1], theory, layers)
        plot.draw_line(_log10(np.array(predicted, np.float64)), THEORY_COLOR, is_dashed=True)
    for line, color in zip(logs, colors, strict=True):
        plot.draw_line(line, tuple(color.tolist()))
    pen.frame(MAP)
    pen.horizontal_axis(MAP, 0, last_layer, "layer (the last one is the output)")
    pen.vertical_axis(MAP, low, high, "log₁₀ ‖∂L/∂h‖", side="left")
    for number, color in enumerate(colors):
        label = f"step {steps[chosen[number]]}"
        pen.legend_entry(COLOR_BAR.left, MAP.top + 20 * number, label, tuple(color.tolist()))
    if theory is not None:
        pen.legend_entry(COLOR_BAR.left, MAP.top + 20 * len(colors), "theory", THEORY_COLOR)
    return picture


def _log10(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(values)


def _range_of(logs: np.ndarray) -> tuple[float, float]:
    """The range of the finite numbers, with some room above and below; at least half a decade."""
    finite = logs[np.isfinite(logs)]
    low = float(np.min(finite)) if len(finite) else 0.0
    high = float(np.max(finite)) if len(finite) else 0.0
    room = max(0.25 - (high - low) / 2, 0.04 * (high - low))
    return low - room, high + room


class LinePlot:
    """Lines over the layers in the box ``MAP``."""

    def __init__(
        self,
        pen: Pen,
        last_layer: int,
        low: float,
        high: float,
    ):
        """Draws nothing yet.

        Args:
            pen: draws on the picture.
            last_layer: the layer at the right edge; 0 is at the left one.
            low: the value at the bottom edge.
            high: the value at the top edge.
        """
        self._pen = pen
        self._last_layer = max(1, last_layer)
        self._low = low
        self._high = high

    def draw_line(
        self,
        values: np.ndarray,
        color: Any,
        *,
        is_dashed: bool = False,
    ) -> None:
        """Draws values [N+1] over the layers; what is not finite or outside is left out."""
        x = MAP.left + np.arange(len(values)) / self._last_layer * (MAP.width - 1)
        share = (values - self._low) / (self._high - self._low)
        y = MAP.bottom - 1 - share * (MAP.height - 1)
        pixels = np.arange(MAP.left, MAP.right)
        heights = np.interp(pixels, x, y)
        is_inside = np.isfinite(heights) & (heights >= MAP.top) & (heights < MAP.bottom)
        for left in range(len(pixels) - 1):
            is_gap = is_dashed and left % (2 * DASH) >= DASH
            if is_inside[left] and is_inside[left + 1] and not is_gap:
                ends = (pixels[left], heights[left], pixels[left + 1], heights[left + 1])
                self._pen.draw.line([float(end) for end in ends], fill=color, width=LINE_WIDTH)
