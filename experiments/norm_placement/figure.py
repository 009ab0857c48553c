"""Gradients of transformers' feed-forward parts, a step's change and training, for three places of layer norm."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import by_seed, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, band, new_figure

KINDS = {
    "Post-LN": ({"skip.kind": "identity", "norm.placement": "post"}, PALETTE[1], "s"),
    "Pre-LN": ({"skip.kind": "identity", "norm.placement": "pre"}, PALETTE[0], "o"),
    "DeepNorm": ({"skip.kind": "deepnorm"}, PALETTE[2], "^"),
}
DEPTHS = (2, 4, 8, 16, 32)


def figure(runs: Sequence[Run]) -> Figure:
    """Above the last feed-forward part over depth, and all of the deepest; below what a step changes, and training."""
    canvas, axes = new_figure(7.0, 5.4, 2, 2)
    for name, (settings, colour, marker) in KINDS.items():
        mine = where(runs, {**settings, "train.steps": 1})
        style = {"color": colour, "marker": marker, "markersize": 4}
        grids = [by_seed(where(mine, {"model.depth": depth})) for depth in DEPTHS]
        last = np.array(
            [[grid[seed].profiles["grad_norm"][0, -1] for grid in grids] for seed in grids[0]]
        )
        band(axes[0, 0], DEPTHS, last, label=name, **style)
        deepest = np.stack([run.profiles["grad_norm"][0, 1::2] for run in grids[-1].values()])
        band(axes[0, 1], np.arange(1, 33), deepest, label=name, markevery=4, **style)
        change = np.array(
            [[grid[seed].inspections["output_change"][0] for grid in grids] for seed in grids[0]]
        )
        band(axes[1, 0], DEPTHS, change, label=name, **style)
        _training(axes[1, 1], where(runs, {**settings, "train.steps": 250}), name, style)
    _finish(axes[0, 0], axes[0, 1])
    _finish_below(axes[1, 0], axes[1, 1])
    canvas.suptitle(
        "Where layer norm stands decides transformers' gradients, and whether they need warm-up",
        fontsize=9,
    )
    return canvas


def _training(axes: Axes, runs: Sequence[Run], name: str, style: dict) -> None:
    """Means of ten steps; dashed with warm-up."""
    for warmup in sorted({run["optimizer.warmup_steps"] for run in runs}):
        losses = [
            run.metrics["train_loss"] for run in where(runs, {"optimizer.warmup_steps": warmup})
        ]
        curves = np.stack([each.reshape(-1, 10).mean(axis=1) for each in losses])
        label, line = (f"{name}, warm-up", "--") if warmup else (name, "-")
        steps = np.arange(curves.shape[1]) * 10 + 5
        band(axes, steps, curves, label=label, linestyle=line, markevery=5, **style)


def _finish_below(left: Axes, right: Axes) -> None:
    left.set(
        xscale="log",
        yscale="log",
        xlabel="blocks",
        title="change of the outputs by a step of descent, rms",
    )
    left.set_xticks(DEPTHS, [str(depth) for depth in DEPTHS])
    left.set_xticks([], minor=True)
    right.set(xlabel="step", ylim=(2.3, 4.2), title="training loss (nats a character), 10 blocks")
    right.legend(loc="upper right")


def _finish(left: Axes, right: Axes) -> None:
    depths = np.array(DEPTHS)
    left.plot(
        depths, 2.3 * depths**-0.5, color="black", linestyle="--", linewidth=0.9, label="slope −1/2"
    )
    left.axhline(2.6, color="black", linestyle=":", linewidth=0.9, label="slope 0")
    left.legend(loc="lower left", ncols=2)
    left.set(xscale="log", yscale="log", ylim=(0.1, 4), xlabel="blocks", ylabel="gradient norm")
    left.set(title="last feed-forward part")
    left.set_xticks(DEPTHS, [str(depth) for depth in DEPTHS])
    left.set_xticks([], minor=True)
    right.set(
        yscale="log",
        xlabel="block",
        ylabel="gradient norm",
        title="every feed-forward part, 32 blocks",
    )
    for axes, ticks in ((left, (0.1, 0.2, 0.5, 1, 2)), (right, (0.3, 0.5, 1, 2, 3))):
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_yticks([], minor=True)
