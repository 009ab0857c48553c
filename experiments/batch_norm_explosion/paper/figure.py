"""Training accuracy over depth under batch norm on MNIST, and 16 depth scales of the exploding gradient."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from research.records.queries import at_best_rate, by_seed, final, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, band, new_figure
from research.theory import profiles as theory

BATCHES = {32: (PALETTE[1], "s"), 128: (PALETTE[0], "o")}


def figure(runs: Sequence[Run]) -> Figure:
    """A line a batch size, each depth at its best learning rate, with 16 ξ dashed in its colour."""
    canvas, axes = new_figure(4.5, 3.0)
    for batch, (colour, marker) in BATCHES.items():
        group = where(runs, {"train.batch_size": batch})
        depths = sorted({run["model.depth"] for run in group})
        cells = [by_seed(at_best_rate(where(group, {"model.depth": depth}))) for depth in depths]
        curves = np.array(
            [[final(cell[seed], "train_accuracy") for cell in cells] for seed in cells[0]]
        )
        curves[~np.isfinite(curves)] = 0.1
        band(
            axes[0, 0],
            depths,
            curves,
            color=colour,
            marker=marker,
            markersize=4,
            label=f"B = {batch}",
        )
        rate = theory.batch_norm_rate("relu", batch)
        assert rate is not None
        axes[0, 0].axvline(16 / math.log(rate), color=colour, linestyle="--", linewidth=0.9)
    axes[0, 0].set(xlabel="layers", ylabel="training accuracy", ylim=(0, 1.02))
    axes[0, 0].legend()
    canvas.suptitle("MNIST: batch norm trains to about 16 ξ (dashed)", fontsize=9)
    return canvas
