"""Squared gradient and squared signal over depth for three weight variances, with what theory expects."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.diagnosis.verdict import log_profile
from research.records.queries import where
from research.records.runs import Run
from research.reporting.figures import PALETTE, band, decades, new_figure

COLOURS = {1: PALETTE[1], 2: PALETTE[0], 3: PALETTE[2]}
MARKERS = {1: "v", 2: "o", 3: "^"}


def figure(runs: Sequence[Run]) -> Figure:
    """Left the gradient, right the forward signal; a line a variance, its range over seeds as a shade."""
    canvas, axes = new_figure(7.0, 2.9, 1, 2)
    _panel(axes[0, 0], runs, "signal_grad", end=-1)
    _panel(axes[0, 1], runs, "activation_rms", end=0)
    axes[0, 0].set_ylabel(
        "squared gradient $\\|\\partial L/\\partial h\\|^2$\nrelative to the last layer"
    )
    axes[0, 1].set_ylabel("squared signal $\\|h\\|^2$\nrelative to the first layer")
    axes[0, 0].legend(loc="lower right", bbox_to_anchor=(1.0, 0.02))
    canvas.suptitle(
        "Rectifier networks keep gradient and signal at $\\sigma_w^2=2$ alone: a factor $\\sigma_w^2/2$ a layer",
        fontsize=9,
    )
    return canvas


def _panel(axes: Axes, runs: Sequence[Run], gauge: str, *, end: int) -> None:
    """Logarithms relative to one end: the last layer, where gradients come from, or the first."""
    for variance, colour in COLOURS.items():
        logs = [
            log_profile(run.profiles[gauge][0])
            for run in where(runs, {"init.sigma_w": math.sqrt(variance)})
        ]
        curves = np.stack([log - log[end] for log in logs]) / math.log(10)
        layers = np.arange(curves.shape[1])
        style = {"color": colour, "marker": MARKERS[variance], "markevery": 10, "markersize": 3.5}
        band(axes, layers, curves, label=f"$\\sigma_w^2={variance}$", **style)
        travelled = layers[::-1] if end else layers
        axes.plot(
            layers,
            math.log10(variance / 2) * travelled,
            color="black",
            linestyle="--",
            linewidth=0.9,
        )
    axes.plot([], [], color="black", linestyle="--", linewidth=0.9, label="theory")
    decades(axes)
    axes.set_xlabel("layer (0: the embedding's output)")
