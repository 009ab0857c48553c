"""The figure of ``fathom landscape``: the loss around, before and between runs."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.reporting.figures import PALETTE, new_figure, save_figure, style

NUM_LEVELS = 13  # contour lines


def draw_landscape(landscape: Any, loss_label: str) -> Figure:
    """The surface, the lines through the final weights, and the line from the initial weights.

    Args:
        landscape: what ``research.runner.landscape.measure_landscape`` returns.
        loss_label: what the loss is called, with its unit.
    """
    with style():
        canvas, axes = new_figure(7.4, 2.7, 1, 3)
        plot_surface(axes[0, 0], landscape.coordinates, landscape.surface)
        axes[0, 0].set(
            xlabel="direction 1 (norm of each filter)",
            ylabel="direction 2",
            title="Loss around the final weights",
        )
        lines = axes[0, 1]
        for losses in landscape.lines:
            lines.plot(landscape.coordinates, losses, color=PALETTE[0], alpha=0.7)
        lines.set(
            yscale="log",
            xlabel="distance (norm of each filter)",
            ylabel=loss_label,
            title="Four random directions",
        )
        _plot_ways(axes[0, 2], landscape, loss_label)
        canvas.supxlabel(
            f"loss of the first {landscape.num_examples:,} training examples in stored order",
            fontsize="small",
        )
    return canvas


def plot_surface(
    axes: Axes,
    coordinates: np.ndarray,
    surface: np.ndarray,
    limits: tuple[float, float] | None = None,
) -> Any:
    """Draws contours of a loss surface with logarithmic steps.

    Args:
        axes: where to draw.
        coordinates: of both axes [A].
        surface: the loss [A, A].
        limits: the least and the greatest loss of the colours; those of the surface without.

    Returns:
        The contours, for a colour bar.
    """
    finite = surface[np.isfinite(surface) & (surface > 0)]
    low, high = limits or (finite.min(), finite.max())
    highest = max(high, 1.01 * low)
    levels = np.linspace(np.log10(low), np.log10(highest), NUM_LEVELS)
    finite = np.nan_to_num(surface, nan=high, posinf=high)
    logs = np.log10(np.clip(finite, low, high))
    contours = axes.contourf(coordinates, coordinates, logs.T, levels, cmap="viridis")
    axes.plot(0, 0, "+", color="white", markersize=7)
    axes.grid(False)
    axes.set_aspect("equal")
    return contours


def _plot_ways(
    axes: Axes,
    landscape: Any,
    loss_label: str,
) -> None:
    positions = np.linspace(0, 1, len(landscape.interpolation))
    axes.plot(
        positions,
        landscape.interpolation,
        color=PALETTE[0],
        label="from the initial weights",
    )
    if landscape.between is not None:
        axes.plot(
            positions,
            landscape.between,
            "--",
            color=PALETTE[1],
            label="to the other run",
        )
        axes.legend()
    axes.set(
        yscale="log",
        xlabel="share of the way",
        ylabel=loss_label,
        title="Straight lines in weight space",
    )


def save_landscape(directory: Path, figure: Figure) -> Path:
    """Saves the figure as ``landscape.png``, ``.svg`` and ``.pdf``; returns the path of the PNG."""
    with style():
        save_figure(figure, directory, "landscape")
    return directory / "landscape.png"
