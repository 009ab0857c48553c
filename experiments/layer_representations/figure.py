"""What each layer makes of the digits: maps of the examples, one digit's pictures, and errors."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from research.records.queries import where
from research.records.runs import Run
from research.reporting.figures import PALETTE, CurveStyle
from research.reporting.panels import band

RANDOM = 0  # which inspection
TRAINED = -1
STYLES = {
    TRAINED: CurveStyle("trained", PALETTE[0], "o"),
    RANDOM: CurveStyle("random weights", PALETTE[1], "s", "--"),
}
CHANNELS = 4  # of a layer that are shown
CLASSES = 10


def figure(runs: Sequence[Run]) -> Figure:
    """Above the maps, trained and random; below the pictures of one digit and the errors."""
    canvas = Figure(figsize=(7.4, 5.4), layout="constrained")
    parts: Any = canvas.subfigures(2, 1, height_ratios=(1.25, 1))
    upper, lower = parts
    networks = where(runs, {"model.kind": "mlp"})
    _draw_maps(upper, networks[0])
    pictures, errors = lower.subfigures(1, 2, width_ratios=(1.25, 1))
    _draw_pictures(pictures, where(runs, {"model.kind": "cnn"})[0])
    _draw_errors(errors, networks)
    canvas.suptitle(
        "Layer by layer, training pulls the ten digits apart; random layers mix them up",
        fontsize=9.5,
    )
    return canvas


def _draw_maps(canvas: Figure, run: Run) -> None:
    maps = run.inspections["representation"]
    labels = run.inspections["representation_class"][0].astype(int)
    num_signals = maps.shape[1]
    axes = canvas.subplots(len(STYLES), num_signals)
    for row, (moment, style) in enumerate(STYLES.items()):
        for signal in range(num_signals):
            _draw_map(axes[row, signal], maps[moment, signal], labels)
        axes[row, 0].set_ylabel(style.label, fontsize=8)
    for signal in range(num_signals):
        axes[0, signal].set_title(f"layer {signal + 1}", fontsize=8)
    colours = mpl.colormaps["tab10"]
    handles = []
    for digit in range(CLASSES):
        handles.append(
            Line2D([], [], marker="o", linestyle="", markersize=3.5, color=colours(digit))
        )
    names = [str(digit) for digit in range(CLASSES)]
    canvas.legend(
        handles,
        names,
        loc="outside right center",
        title="digit",
        title_fontsize=7,
        handletextpad=0.1,
    )


def _draw_map(
    axes: Axes,
    points: np.ndarray,
    labels: np.ndarray,
) -> None:
    axes.scatter(points[:, 0], points[:, 1], c=labels, cmap="tab10", vmin=0, vmax=9, s=2.5)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)


def _draw_pictures(canvas: Figure, run: Run) -> None:
    """The digit, and below each layer's name some of its channels."""
    maps = run.inspections["feature_maps"][TRAINED]
    digit = run.inspections["shown_example"][TRAINED]
    num_signals = len(maps)
    grid = canvas.add_gridspec(CHANNELS, num_signals + 1)
    _draw_picture(canvas.add_subplot(grid[1:3, 0]), digit.reshape(8, 8), "the digit", "gray_r")
    for signal in range(num_signals):
        active = np.maximum(maps[signal], 0)
        strongest = np.argsort(active.std(axis=(0, 1)))[::-1][:CHANNELS]
        for row, channel in enumerate(strongest):
            title = f"layer {signal + 1}" if row == 0 else ""
            axes = canvas.add_subplot(grid[row, signal + 1])
            _draw_picture(axes, active[..., channel], title, "magma")
    canvas.suptitle("What the layers of a trained CNN see of one digit", fontsize=8.5)


def _draw_picture(
    axes: Axes,
    image: np.ndarray,
    title: str,
    colours: str,
) -> None:
    axes.imshow(image, cmap=colours)
    axes.set_title(title, fontsize=7)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)


def _draw_errors(canvas: Figure, runs: Sequence[Run]) -> None:
    axes = canvas.subplots()
    for moment, style in STYLES.items():
        curves = np.stack([run.inspections["probe_error"][moment] for run in runs])
        layers = np.arange(curves.shape[1]) + 1
        band(
            axes,
            layers,
            100 * curves,
            markersize=4,
            **style.keywords,
        )
        axes.annotate(
            style.label,
            (layers[-1], 100 * curves[:, -1].mean()),
            xytext=(-4, 6),
            textcoords="offset points",
            ha="right",
            color=style.color,
            fontsize=8,
        )
    axes.set(
        xlabel="layer that a linear classifier reads",
        ylabel="digits it confuses (%)",
        title="A straight line between the digits",
    )
    axes.set_ylim(bottom=-1)
