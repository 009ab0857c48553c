"""Held-out loss over learning rate by depth, with the standard parametrization and CompleteP."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from research.records.queries import setting_values
from research.records.runs import Run
from research.reporting.figures import depth_colours, new_figure
from research.reporting.panels import band
from research.reproduce.experiments import load_module

DEPTHS = (3, 12, 48)


def figure(runs: Sequence[Run]) -> Figure:
    """One panel for each parametrization, one line for each depth."""
    claims = load_module("paper/depth_transfer", "claims")
    canvas, axes = new_figure(6.0, 3.0, 1, 2)
    rates = setting_values(runs, "optimizer.learning_rate")
    for panel, name in zip(axes[0], ("standard", "complete_p"), strict=True):
        for depth, colour in zip(DEPTHS, depth_colours(len(DEPTHS)), strict=True):
            losses = claims.losses(runs, name, depth)
            band(panel, rates, losses, color=colour, marker="o", label=f"{depth} blocks")
        panel.set(xlabel="learning rate", title=name)
        panel.set_xscale("log", base=2)
    axes[0, 0].set_ylabel("held-out loss (nats)")
    axes[0, 0].legend()
    return canvas
