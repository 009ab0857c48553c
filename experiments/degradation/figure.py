"""Training loss over steps and over depth, plain against residual, and the published errors."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import at_best_rate, final_values, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, CurveStyle, new_figure
from research.reporting.panels import plot_metric, range_bars

ARMS = {
    "none": CurveStyle("plain", PALETTE[1], "v"),
    "inv_sqrt_depth": CurveStyle("residual", PALETTE[0], "o"),
}
HATCHES = {"none": "////", "inv_sqrt_depth": None}
LINES: dict[int, Any] = {8: ":", 64: "-"}
DEPTHS = (8, 24, 64)
WINDOW = 10  # training steps that one point of a curve is the mean of
IMAGENET = {  # top-1 error, %, by depth: Table 2
    "none": {18: 27.94, 34: 28.54},
    "inv_sqrt_depth": {18: 27.88, 34: 25.03},
}


def figure(runs: Sequence[Run]) -> Figure:
    """Loss over steps at one learning rate, final loss over depth, and the paper's numbers."""
    canvas, axes = new_figure(7.2, 2.8, 1, 3)
    usual = where(runs, {"optimizer.learning_rate": 0.001})
    _plot_curves(axes[0, 0], where(usual, {"norm.kind": "none"}))
    _plot_final_losses(axes[0, 1], runs, usual)
    _plot_published(axes[0, 2])
    canvas.suptitle(
        "More layers make plain networks train worse; with residual connections they train",
        fontsize=9,
    )
    return canvas


def _plot_curves(axes: Axes, runs: Sequence[Run]) -> None:
    for skip, style in ARMS.items():
        for depth, line in LINES.items():
            group = where(runs, {"skip.kind": skip, "model.depth": depth})
            label = f"{style.label}-{depth}"
            curve = dataclasses.replace(style, label=label, linestyle=line)
            plot_metric(
                axes,
                group,
                "train_loss",
                window=WINDOW,
                markevery=6,
                markersize=3.5,
                **curve.keywords,
            )
    axes.legend(loc="lower left")
    axes.set(
        yscale="log",
        ylim=(5e-4, 6),
        xlabel="training step",
        ylabel="training loss\n(nats, mean of 10 steps)",
    )
    axes.set_title("Adam, 0.001")


def _plot_final_losses(
    axes: Axes,
    runs: Sequence[Run],
    usual: Sequence[Run],
) -> None:
    """A bar for each depth at the usual learning rate, a mark on it at its best one."""
    for offset, skip in zip((-0.18, 0.36 - 0.18), ARMS, strict=True):
        for column, depth in enumerate(DEPTHS):
            settings = {"norm.kind": "none", "skip.kind": skip, "model.depth": depth}
            at_usual = final_values(where(usual, settings), "train_loss")
            at_best = final_values(at_best_rate(where(runs, settings)), "train_loss")
            _plot_bar(axes, column + offset, at_usual, skip)
            _plot_mark(axes, column + offset, at_best)
    _annotate_batch_norm(axes, where(usual, {"norm.kind": "batch"}))
    axes.plot([], [], "_", color="black", markersize=8, label="at its best rate")
    axes.legend(loc="upper left")
    axes.set(yscale="log", ylim=(5e-4, 6))
    axes.set(xlabel="depth, in layers", title="bars: at the end, 0.001")
    axes.set_xticks(range(3), [str(depth) for depth in DEPTHS])


def _plot_bar(
    axes: Axes,
    x: float,
    losses: Sequence[float],
    skip: str,
) -> None:
    axes.bar(
        x,
        float(np.mean(losses)),
        0.34,
        color=ARMS[skip].color,
        hatch=HATCHES[skip],
        edgecolor="white",
        yerr=range_bars(losses),
        error_kw={"linewidth": 0.8},
    )


def _plot_mark(
    axes: Axes,
    x: float,
    losses: Sequence[float],
) -> None:
    axes.plot(x, np.mean(losses), "_", color="black", markersize=11, markeredgewidth=1.5)


def _annotate_batch_norm(axes: Axes, runs: Sequence[Run]) -> None:
    mean = np.mean(final_values(runs, "train_loss"))
    axes.plot(2.42, mean, "X", color="black", markersize=5)
    axes.annotate(
        "plain-64 with\nbatch norm",
        (2.4, mean),
        xytext=(0.6, 1.0),
        fontsize=6.5,
        va="center",
        arrowprops={"arrowstyle": "-", "linewidth": 0.6},
    )


def _plot_published(axes: Axes) -> None:
    for skip, style in ARMS.items():
        errors = IMAGENET[skip]
        axes.plot(
            list(errors),
            list(errors.values()),
            color=style.color,
            linestyle="--",
            marker=style.marker,
            label=style.label,
        )
    axes.legend(loc="lower left")
    axes.set(xlim=(14, 38), ylim=(24, 29.5), xlabel="depth, in layers", ylabel="top-1 error, %")
    axes.set_xticks([18, 34])
    axes.set_title("published: ImageNet")
