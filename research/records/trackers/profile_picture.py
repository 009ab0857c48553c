"""A profile over depth at a few steps as a picture, for dashboards that show no pages."""

import numpy as np
from PIL import Image

from research.gauges.numbering import INPUT
from research.records.trackers.colors import VIRIDIS
from research.records.trackers.heat_map import COLOR_BAR, MAP, SIZE, Pen
from research.records.trackers.layers import evenly_spaced
from research.records.trackers.profile_page import predict_signal

MAX_LINES = 6
LINE_WIDTH = 3
LAST_COLOR = 225  # brighter ones are hard to see on white
THEORY_COLOR = (120, 120, 120)
DASH = 8  # pixels
LEGEND_HEIGHT = 20


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
    last_layer = signal.shape[1] - 1
    pen = Pen(Image.new("RGB", SIZE, "white"))
    plot = LinePlot(pen, last_layer, low, high)
    if theory is not None:
        predicted = predict_signal(lines[0, -1], theory, np.arange(last_layer + 1))
        plot.draw_line(_log10(np.array(predicted, np.float64)), THEORY_COLOR, is_dashed=True)
        plot.name_line("theory", THEORY_COLOR)
    shades = np.linspace(0, LAST_COLOR, len(chosen)).astype(int)
    for position, step in enumerate(steps[chosen].tolist()):
        color = tuple(VIRIDIS[shades[position]].tolist())
        plot.draw_line(logs[position], color)
        plot.name_line(f"step {step}", color)
    pen.frame(MAP)
    pen.horizontal_axis(MAP, INPUT, last_layer + INPUT, "layer (−1: the input of layer 0)")
    pen.vertical_axis(MAP, low, high, "log₁₀ ‖∂L/∂h‖", side="left")
    return pen.picture


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
        self._num_named = 0

    def draw_line(
        self,
        values: np.ndarray,
        color: tuple[int, ...],
        *,
        is_dashed: bool = False,
    ) -> None:
        """Draws values [N+1] over the layers; what is not finite or outside is left out."""
        share_of_layer = np.arange(len(values)) / self._last_layer
        share_of_height = (values - self._low) / (self._high - self._low)
        x = MAP.left + share_of_layer * (MAP.width - 1)
        y = MAP.bottom - 1 - share_of_height * (MAP.height - 1)
        columns = np.arange(MAP.left, MAP.right)
        heights = np.interp(columns, x, y)
        is_drawn = np.isfinite(heights) & (heights >= MAP.top) & (heights < MAP.bottom)
        if is_dashed:
            is_drawn &= np.arange(MAP.width) % (2 * DASH) < DASH
        for column in np.flatnonzero(is_drawn[:-1] & is_drawn[1:]).tolist():
            start = (float(columns[column]), float(heights[column]))
            end = (float(columns[column + 1]), float(heights[column + 1]))
            self._pen.draw.line([start, end], fill=color, width=LINE_WIDTH)

    def name_line(self, name: str, color: tuple[int, ...]) -> None:
        """Adds an entry to the legend."""
        y = MAP.top + LEGEND_HEIGHT * self._num_named
        self._pen.legend_entry(COLOR_BAR.left, y, name, color)
        self._num_named += 1
