"""A heat map of a profile over training, for dashboards."""

import numpy as np

from research.records.trackers.canvas import COLOR_BAR, MAP, MISSING, SCALE, Box, Canvas
from research.records.trackers.media import Picture


def heat_map(
    steps: np.ndarray,
    profile: np.ndarray,
    *,
    label: str,
    first_layer: int = 0,
) -> Picture:
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
    canvas = Canvas()
    columns = _to_columns(_colored(logs, low, high), step_edges)
    _fill(canvas, MAP, columns[::-1])  # the first layer is at the bottom
    gradient = np.linspace(high, low, COLOR_BAR.height)
    _fill(canvas, COLOR_BAR, _colored(gradient[:, np.newaxis], low, high))
    canvas.frame(MAP)
    canvas.frame(COLOR_BAR)
    canvas.horizontal_axis(MAP, step_edges[0], step_edges[-1], "training step")
    low_edge = first_layer - 0.5
    axis = "layer" if first_layer == 0 else "layer (−1: the input)"
    canvas.vertical_axis(MAP, low_edge, low_edge + len(logs), axis, side="left")
    canvas.vertical_axis(COLOR_BAR, low, high, label, side="right")
    return canvas.picture()


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
    """The colours of each column of pixels [N, W], from those of the steps [N, S]."""
    first = step_edges[0]
    last = step_edges[-1]
    centers = _centers(MAP.width)
    step_of_pixel = first + centers * (last - first)
    column_of_pixel = np.searchsorted(step_edges, step_of_pixel, side="right") - 1
    return colors[:, column_of_pixel]


def _fill(
    canvas: Canvas,
    box: Box,
    colors: np.ndarray,
) -> None:
    """Fills a box with rows of colours [rows, W] of the same height; [rows, 1] fills its width."""
    rows = _centers(box.height) * len(colors)
    row_of_pixel = rows.astype(int)
    canvas.part(box)[:] = colors[row_of_pixel]


def _centers(num_pixels: int) -> np.ndarray:
    """Where the middles of pixels are, as shares of their line."""
    return (np.arange(num_pixels) + 0.5) / num_pixels


def _colored(
    values: np.ndarray,
    low: float,
    high: float,
) -> np.ndarray:
    """The colours of numbers of any shape on a scale from ``low`` to ``high``."""
    num_colors = len(SCALE)
    is_finite = np.isfinite(values)
    known = np.where(is_finite, values, low)
    share = (known - low) / (high - low)
    place = np.clip(share * num_colors, 0, num_colors - 1).astype(int)
    return np.where(is_finite, SCALE[place], np.uint8(MISSING))
