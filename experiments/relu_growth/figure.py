"""Squared gradient and squared signal over depth for three weight variances, with theory."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.diagnosis.verdict import log_profile
from research.records.queries import initial_profiles, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, band, decades, new_figure, plot_theory

COLOURS = {1: PALETTE[1], 2: PALETTE[0], 3: PALETTE[2]}  # by σ_w²
MARKERS = {1: "v", 2: "o", 3: "^"}
FIRST = 0
LAST = -1


def figure(runs: Sequence[Run]) -> Figure:
    """Left the gradient, right the signal: a line for each variance, shaded over seeds."""
    canvas, axes = new_figure(7.0, 2.9, 1, 2)
    left = axes[0, 0]
    right = axes[0, 1]
    _draw_gauge(left, runs, "signal_grad", reference=LAST)
    _draw_gauge(right, runs, "activation_rms", reference=FIRST)
    left.set_ylabel(
        "squared gradient $\\|\\partial L/\\partial h\\|^2$\nrelative to the last layer"
    )
    right.set_ylabel("squared signal $\\|h\\|^2$\nrelative to the first layer")
    left.legend(loc="lower right", bbox_to_anchor=(1.0, 0.02))
    canvas.suptitle(
        "Rectifier networks keep gradient and signal at $\\sigma_w^2=2$ alone: "
        "a factor $\\sigma_w^2/2$ a layer",
        fontsize=9,
    )
    return canvas


def _draw_gauge(
    axes: Axes,
    runs: Sequence[Run],
    gauge: str,
    *,
    reference: int,
) -> None:
    """Log₁₀ of the square relative to a reference layer: the last for gradients, else the first."""
    for variance, colour in COLOURS.items():
        group = where(runs, {"init.sigma_w": math.sqrt(variance)})
        logs = log_profile(initial_profiles(group, gauge))
        curves = (logs - logs[:, [reference]]) / math.log(10)
        layers = np.arange(curves.shape[1])
        band(
            axes,
            layers,
            curves,
            label=f"$\\sigma_w^2={variance}$",
            color=colour,
            marker=MARKERS[variance],
            markevery=10,
            markersize=3.5,
        )
        distance = layers[::-1] if reference == LAST else layers
        plot_theory(axes, layers, math.log10(variance / 2) * distance)
    plot_theory(axes, [], [], label="theory")
    decades(axes)
    axes.set_xlabel("layer (0: the embedding's output)")
