"""Training accuracy over depth under batch norm on MNIST, and 16 depth scales of the gradient."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import at_best_rate, by_seed, final, setting_values, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, CurveStyle, new_figure
from research.reporting.panels import band
from research.theory import profiles as theory

BATCHES = {
    32: CurveStyle("B = 32", PALETTE[1], "s"),
    128: CurveStyle("B = 128", PALETTE[0], "o"),
}
CHANCE = 0.1  # the accuracy that stands for a run that diverged


def figure(runs: Sequence[Run]) -> Figure:
    """One line per batch size, each depth at its best learning rate; 16 ξ dashed in its colour."""
    canvas, axes = new_figure(4.5, 3.0)
    panel = axes[0, 0]
    for batch, style in BATCHES.items():
        _plot_accuracy(panel, where(runs, {"train.batch_size": batch}), style)
        rate = theory.batch_norm_rate("relu", batch)
        assert rate is not None
        panel.axvline(16 / math.log(rate), color=style.color, linestyle="--", linewidth=0.9)
    panel.set(xlabel="layers", ylabel="training accuracy", ylim=(0, 1.02))
    panel.legend()
    canvas.suptitle("MNIST: batch norm trains to about 16 ξ (dashed)", fontsize=9)
    return canvas


def _plot_accuracy(
    axes: Axes,
    runs: Sequence[Run],
    style: CurveStyle,
) -> None:
    depths = setting_values(runs, "model.depth")
    columns = []
    for depth in depths:
        best = by_seed(at_best_rate(where(runs, {"model.depth": depth})))
        columns.append([final(best[seed], "train_accuracy") for seed in sorted(best)])
    accuracies = np.array(columns).T
    accuracies[~np.isfinite(accuracies)] = CHANCE
    band(
        axes,
        depths,
        accuracies,
        color=style.color,
        marker=style.marker,
        markersize=4,
        label=style.label,
    )
