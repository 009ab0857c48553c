"""Gradients of transformers' feed-forward parts over depth and over the layers, for three places of layer norm."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.analysis import Run
from research.records.figures import PALETTE, band, new_figure
from research.records.selection import by_seed, where

KINDS = {
    "Post-LN": ({"skip.kind": "identity", "norm.placement": "post"}, PALETTE[1], "s"),
    "Pre-LN": ({"skip.kind": "identity", "norm.placement": "pre"}, PALETTE[0], "o"),
    "DeepNorm": ({"skip.kind": "deepnorm"}, PALETTE[2], "^"),
}
DEPTHS = (2, 4, 8, 16, 32)


def figure(runs: Sequence[Run]) -> Figure:
    """Left the last feed-forward part over depth, right all of them in the deepest network."""
    canvas, axes = new_figure(7.0, 2.9, 1, 2)
    for name, (settings, colour, marker) in KINDS.items():
        mine, style = where(runs, settings), {"color": colour, "marker": marker, "markersize": 4}
        grids = [by_seed(where(mine, {"model.depth": depth})) for depth in DEPTHS]
        last = np.array([[grid[seed].profiles["grad_norm"][0, -1] for grid in grids] for seed in grids[0]])
        band(axes[0, 0], DEPTHS, last, label=name, **style)
        deepest = np.stack([run.profiles["grad_norm"][0, 1::2] for run in grids[-1].values()])
        band(axes[0, 1], np.arange(1, 33), deepest, label=name, markevery=4, **style)
    _finish(axes[0, 0], axes[0, 1])
    canvas.suptitle("Transformers' gradients at initialisation depend on where layer norm stands", fontsize=9)
    return canvas


def _finish(left: Axes, right: Axes) -> None:
    depths = np.array(DEPTHS)
    left.plot(depths, 2.3 * depths**-0.5, color="black", linestyle="--", linewidth=0.9, label="slope −1/2")
    left.axhline(2.6, color="black", linestyle=":", linewidth=0.9, label="slope 0")
    left.legend(loc="lower left", ncols=2)
    left.set(xscale="log", yscale="log", ylim=(0.1, 4), xlabel="blocks", ylabel="gradient norm")
    left.set(title="last feed-forward part")
    left.set_xticks(DEPTHS, [str(depth) for depth in DEPTHS])
    left.set_xticks([], minor=True)
    right.set(yscale="log", xlabel="block", ylabel="gradient norm", title="every feed-forward part, 32 blocks")
    for axes, ticks in ((left, (0.1, 0.2, 0.5, 1, 2)), (right, (0.3, 0.5, 1, 2, 3))):
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_yticks([], minor=True)
