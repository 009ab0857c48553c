"""A profile over depth at a few steps as a picture, for dashboards that show no pages."""

import numpy as np

from research.gauges.numbering import INPUT
from research.records.trackers.canvas import COLOR_BAR, GREY, MAP, SCALE, Canvas
from research.records.trackers.layers import evenly_spaced
from research.records.trackers.media import Picture
from research.records.trackers.profile_page import predict_signal

MAX_LINES = 6
LINE_WIDTH = 3
LAST_COLOR = 225  # brighter ones are hard to see on white
DASH = 8  # pixels
LEGEND_HEIGHT = 20


def profile_picture(
    steps: np.ndarray,
    signal: np.ndarray,
    *,
    theory: float | None,
) -> Picture:
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
    canvas = Canvas()
    plot = LinePlot(canvas, last_layer, low, high)
    if theory is not None:
        predicted = predict_signal(lines[0, -1], theory, np.arange(last_layer + 1))
        plot.draw_line(_log10(np.array(predicted, np.float64)), GREY, is_dashed=True)
        plot.name_line("theory", GREY)
    shades = np.linspace(0, LAST_COLOR, len(chosen)).astype(int)
    for position, step in enumerate(steps[chosen].tolist()):
        color = int(SCALE[shades[position]])
        plot.draw_line(logs[position], color)
        plot.name_line(f"step {step}", color)
    canvas.frame(MAP)
    canvas.horizontal_axis(MAP, INPUT, last_layer + INPUT, "layer (−1: the input of layer 0)")
    canvas.vertical_axis(MAP, low, high, "log₁₀ ‖∂L/∂h‖", side="left")
    return canvas.picture()


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
        canvas: Canvas,
        last_layer: int,
        low: float,
        high: float,
    ):
        """Draws nothing yet.

        Args:
            canvas: the picture.
            last_layer: the layer at the right edge; 0 is at the left one.
            low: the value at the bottom edge.
            high: the value at the top edge.
        """
        self._canvas = canvas
        self._last_layer = max(1, last_layer)
        self._low = low
        self._high = high
        self._num_named = 0

    def draw_line(
        self,
        values: np.ndarray,
        color: int,
        *,
        is_dashed: bool = False,
    ) -> None:
        """Draws values [N+1] over the layers; what is not finite or outside is left out.

        Args:
            values: a value for each layer.
            color: the number of the colour.
            is_dashed: whether the line has gaps.
        """
        share_of_layer = np.arange(len(values)) / self._last_layer
        share_of_height = (values - self._low) / (self._high - self._low)
        columns = np.arange(MAP.width)
        heights = np.interp(
            columns,
            share_of_layer * (MAP.width - 1),
            (1 - share_of_height) * (MAP.height - 1),
        )
        is_drawn = np.isfinite(heights) & (heights >= 0) & (heights < MAP.height)
        if is_dashed:
            is_drawn &= columns % (2 * DASH) < DASH
        slopes = np.diff(heights, append=heights[-1])
        slopes = np.where(np.isfinite(slopes), slopes, 0)
        middles = heights + slopes / 2
        reach = LINE_WIDTH / 2 * np.hypot(1, slopes)  # upwards and downwards from the middle
        rows = np.arange(MAP.height)[:, np.newaxis]
        is_line = is_drawn & (np.abs(rows - middles) <= reach)
        self._canvas.part(MAP)[is_line] = color

    def name_line(self, name: str, color: int) -> None:
        """Adds an entry to the legend."""
        y = MAP.top + LEGEND_HEIGHT * self._num_named
        self._canvas.legend_entry(COLOR_BAR.left, y, name, color)
        self._num_named += 1
