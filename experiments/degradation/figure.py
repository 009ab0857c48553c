"""Training loss over steps and over depth, plain against residual, beside the published errors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import at_best_rate, final, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, band, new_figure

ARMS = {"none": ("plain", PALETTE[1], "v"), "inv_sqrt_depth": ("residual", PALETTE[0], "o")}
STYLES: dict[int, Any] = {8: ":", 64: "-"}
STEPS = 10  # of a curve's means
IMAGENET = {
    "none": {18: 27.94, 34: 28.54},
    "inv_sqrt_depth": {18: 27.88, 34: 25.03},
}  # top-1 error, %: Table 2


def figure(runs: Sequence[Run]) -> Figure:
    """Left the loss over steps at one learning rate, in the middle its end over depth, right the paper's numbers."""
    canvas, axes = new_figure(7.2, 2.8, 1, 3)
    usual = where(runs, {"optimizer.learning_rate": 0.001})
    _curves(axes[0, 0], where(usual, {"norm.kind": "none"}))
    _ends(axes[0, 1], runs, usual)
    _published(axes[0, 2])
    canvas.suptitle(
        "More layers make plain networks train worse; with residual connections they train",
        fontsize=9,
    )
    return canvas


def _curves(axes: Axes, runs: Sequence[Run]) -> None:
    for skip, (label, colour, marker) in ARMS.items():
        for depth, style in STYLES.items():
            arm = where(runs, {"skip.kind": skip, "model.depth": depth})
            curves = np.stack(
                [run.metrics["train_loss"].reshape(-1, STEPS).mean(axis=1) for run in arm]
            )
            steps = np.arange(curves.shape[1]) * STEPS + STEPS / 2
            drawn = {
                "color": colour,
                "linestyle": style,
                "marker": marker,
                "markevery": 6,
                "markersize": 3.5,
            }
            band(axes, steps, curves, label=f"{label}-{depth}", **drawn)
    axes.legend(loc="lower left")
    axes.set(
        yscale="log",
        ylim=(5e-4, 6),
        xlabel="training step",
        ylabel="training loss\n(nats, mean of 10 steps)",
    )
    axes.set_title("Adam, 0.001")


def _ends(axes: Axes, runs: Sequence[Run], usual: Sequence[Run]) -> None:
    for place, (skip, (_, colour, _)) in enumerate(ARMS.items()):
        for column, depth in enumerate((8, 24, 64)):
            arm = {"norm.kind": "none", "skip.kind": skip, "model.depth": depth}
            best = at_best_rate(where(runs, arm))
            _bar(
                axes,
                column + 0.36 * place - 0.18,
                [final(run, "train_loss") for run in where(usual, arm)],
                colour,
            )
            _bar_mark(
                axes, column + 0.36 * place - 0.18, [final(run, "train_loss") for run in best]
            )
    normalised = [final(run, "train_loss") for run in where(usual, {"norm.kind": "batch"})]
    axes.plot(2.42, np.mean(normalised), "X", color="black", markersize=5)
    axes.annotate("plain-64 with\nbatch norm", (2.4, np.mean(normalised)), xytext=(0.6, 1.0), fontsize=6.5, va="center",
                  arrowprops={"arrowstyle": "-", "linewidth": 0.6})  # fmt: skip
    axes.plot([], [], "_", color="black", markersize=8, label="at its best rate")
    axes.legend(loc="upper left")
    axes.set(
        yscale="log", ylim=(5e-4, 6), xlabel="depth, in layers", title="bars: at the end, 0.001"
    )
    axes.set_xticks(range(3), ["8", "24", "64"])


def _bar(axes: Axes, x: float, values: Sequence[float], colour: str) -> None:
    mean = float(np.mean(values))
    spread = [[mean - min(values)], [max(values) - mean]]
    hatch = "////" if colour == ARMS["none"][1] else None
    axes.bar(
        x,
        mean,
        0.34,
        color=colour,
        hatch=hatch,
        edgecolor="white",
        yerr=spread,
        error_kw={"linewidth": 0.8},
    )


def _bar_mark(axes: Axes, x: float, values: Sequence[float]) -> None:
    axes.plot(x, np.mean(values), "_", color="black", markersize=11, markeredgewidth=1.5)


def _published(axes: Axes) -> None:
    for skip, (label, colour, marker) in ARMS.items():
        errors = IMAGENET[skip]
        axes.plot(
            list(errors),
            list(errors.values()),
            color=colour,
            linestyle="--",
            marker=marker,
            label=label,
        )
    axes.legend(loc="lower left")
    axes.set(xlim=(14, 38), ylim=(24, 29.5), xlabel="depth, in layers", ylabel="top-1 error, %")
    axes.set_xticks([18, 34])
    axes.set_title("published: ImageNet")
