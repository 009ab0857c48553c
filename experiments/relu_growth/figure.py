"""Squared gradient and squared signal over depth for three weight variances, with theory."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import initial_profiles, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, CurveStyle, new_figure, set_log_scale
from research.reporting.panels import band, plot_profile, plot_theory, relative_gradient

STYLES = {  # by σ_w²
    1: CurveStyle("$\\sigma_w^2=1$", PALETTE[1], "v"),
    2: CurveStyle("$\\sigma_w^2=2$", PALETTE[0], "o"),
    3: CurveStyle("$\\sigma_w^2=3$", PALETTE[2], "^"),
}


def figure(runs: Sequence[Run]) -> Figure:
    """Left the gradient, right the signal: a line for each variance, shaded over seeds."""
    canvas, axes = new_figure(7.0, 2.9, 1, 2)
    left = axes[0, 0]
    right = axes[0, 1]
    for variance, style in STYLES.items():
        group = where(runs, {"init.sigma_w": math.sqrt(variance)})
        plot_profile(
            left,
            relative_gradient(group),
            factor=variance / 2,
            markevery=10,
            markersize=3.5,
            **style.keywords,
        )
        _draw_signal(right, group, variance, style)
    plot_theory(left, [], [], label="theory")
    left.set_ylabel(
        "squared gradient $\\|\\partial L/\\partial h\\|^2$\nrelative to the last layer"
    )
    right.set_ylabel("squared signal $\\|h\\|^2$\nrelative to the first layer")
    for axes in (left, right):
        set_log_scale(axes)
        axes.set_xlabel("layer (0: the embedding's output)")
    left.legend(loc="lower right", bbox_to_anchor=(1.0, 0.02))
    canvas.suptitle(
        "Rectifier networks keep gradient and signal at $\\sigma_w^2=2$ alone: "
        "a factor $\\sigma_w^2/2$ a layer",
        fontsize=9,
    )
    return canvas


def _draw_signal(
    axes: Axes,
    runs: Sequence[Run],
    variance: int,
    style: CurveStyle,
) -> None:
    """The squared signal relative to the first layer's, from which theory goes on."""
    squares = initial_profiles(runs, "activation_rms").astype(float) ** 2
    relative = squares / squares[:, :1]
    layers = np.arange(relative.shape[1])
    band(axes, layers, relative, markevery=10, markersize=3.5, **style.keywords)
    plot_theory(axes, layers, (variance / 2) ** layers)
