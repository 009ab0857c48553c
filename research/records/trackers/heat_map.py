"""A heat map of a profile over training, for dashboards."""

import io
import threading
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

DRAWING = threading.Lock()  # the settings of matplotlib belong to the whole process
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}


def heat_map(
    steps: np.ndarray,
    profile: np.ndarray,
    *,
    label: str,
) -> Image.Image:
    """Draws log₁₀ of a profile: training steps on the horizontal axis, layers on the vertical one.

    Args:
        steps: the measured steps [S].
        profile: one value for each step and layer [S, N].
        label: the title of the colour bar.
    """
    profile = np.asarray(profile, np.float64)
    with np.errstate(divide="ignore"):
        logs = np.log10(profile).T
    with DRAWING, mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.5, 3.2), layout="constrained")
        axes = figure.subplots()
        layer_edges = np.arange(len(logs) + 1) - 0.5
        image = axes.pcolormesh(
            _step_edges(steps),
            layer_edges,
            np.ma.masked_invalid(logs),
            cmap="viridis",
            rasterized=True,
        )
        axes.set(xlabel="training step", ylabel="layer", facecolor="0.85")
        figure.colorbar(image, ax=axes, label=label)
        return _render(figure)


def _step_edges(steps: np.ndarray) -> np.ndarray:
    """The borders of the map's columns: each step, and the end of the last one."""
    width = 1
    if len(steps) > 1:
        width = steps[1] - steps[0]
    return np.append(steps, steps[-1] + width)


def _render(figure: Figure) -> Image.Image:
    """Converts a figure to an image without pyplot, whose state is global."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return Image.open(buffer)
