"""Final loss over learning rate by depth, for three factors of the branches."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.runs import Run
from research.reporting.figures import depth_colours, new_figure
from research.reporting.panels import band
from research.reproduce.experiments import load_module

claims = load_module("depth_transfer", "claims")

FACTORS = {"1": "$h+F(h)$", "1/√L": "$h+F(h)/\\sqrt{L}$", "1/L": "$h+F(h)/L$"}
PARAMETRIZATIONS = {
    "standard": "standard",
    "depth_mup": "depth_mup: $F(h)/\\sqrt{L}$",
    "complete_p": "complete_p: $F(h)/L$",
}
LARGEST = 3.0  # losses above are not drawn
SMALLEST = 0.03  # on the axis


def figure(runs: Sequence[Run]) -> Figure:
    """Above gradient descent with momentum, below Adam with two weight matrices in a branch."""
    canvas, axes = new_figure(7.5, 4.6, 2, 3)
    colours = dict(zip(claims.DEPTHS, depth_colours(len(claims.DEPTHS)), strict=True))
    for panel, (factor, title) in zip(axes[0], FACTORS.items(), strict=True):
        for depth, colour in colours.items():
            _draw(panel, claims.of_descent(runs, factor, depth), colour, label=f"$L={depth}$")
        panel.set(yscale="log", ylim=(SMALLEST, LARGEST), title=title)
    for panel, (name, title) in zip(axes[1], PARAMETRIZATIONS.items(), strict=True):
        for depth in (claims.SHALLOW, claims.DEEP):
            group = claims.of_adam(runs, 2, name, depth)
            _draw(panel, group, colours[depth], label=f"$L={depth}$")
        panel.set(yscale="log", xlabel="learning rate", title=title)
    for panel in axes.flat:
        panel.set_xscale("log", base=2)
    axes[0, 0].set_ylabel("loss, momentum")
    axes[1, 0].set_ylabel("loss, Adam")
    axes[0, 0].legend(loc="upper right")
    axes[1, 0].legend(loc="upper right")
    canvas.suptitle(
        "With branches divided by √L or L, the best learning rate is the same at every depth",
        fontsize=9,
    )
    return canvas


def _draw(
    axes: Axes,
    runs: Sequence[Run],
    colour: object,
    *,
    label: str,
) -> None:
    rates = np.array(claims.rates(runs))
    losses = claims.losses(runs)
    shown = np.where(losses < LARGEST, losses, np.nan)
    has_value = np.all(np.isfinite(shown), axis=0)
    if not np.any(has_value):
        return
    band(axes, rates[has_value], shown[:, has_value], color=colour, marker="o", label=label)
    mean = np.mean(losses, axis=0)
    best = int(np.argmin(mean))
    axes.plot(rates[best], mean[best], "v", color=colour, markersize=7)
