"""Gradients of transformers' feed-forward parts, the effect of one step, and training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import (
    initial_profiles,
    setting_values,
    where,
)
from research.records.runs import Run
from research.reporting.figures import PALETTE, new_figure, set_ticks
from research.reporting.panels import band, plot_metric, plot_over_setting, plot_theory

SETTINGS = {
    "Post-LN": {"skip.kind": "identity", "norm.placement": "post"},
    "Pre-LN": {"skip.kind": "identity", "norm.placement": "pre"},
    "DeepNorm": {"skip.kind": "deepnorm"},
}
STYLES: dict[str, dict[str, Any]] = {
    "Post-LN": {"color": PALETTE[1], "marker": "s", "markersize": 4},
    "Pre-LN": {"color": PALETTE[0], "marker": "o", "markersize": 4},
    "DeepNorm": {"color": PALETTE[2], "marker": "^", "markersize": 4},
}
DEPTHS = (2, 4, 8, 16, 32)


def figure(runs: Sequence[Run]) -> Figure:
    """Above gradients over depth and in the deepest; below what a step changes, and training."""
    canvas, axes = new_figure(7.0, 5.4, 2, 2)
    at_start = where(runs, {"train.steps": 1})
    _draw_last_part(axes[0, 0], at_start)
    _draw_all_parts(axes[0, 1], where(at_start, {"model.depth": DEPTHS[-1]}))
    _draw_output_change(axes[1, 0], at_start)
    _draw_training(axes[1, 1], where(runs, {"train.steps": 250}))
    canvas.suptitle(
        "Where layer norm stands decides transformers' gradients, and whether they need warm-up",
        fontsize=9,
    )
    return canvas


def _draw_last_part(axes: Axes, runs: Sequence[Run]) -> None:
    def last_gradient(run: Run) -> float:
        return run.profiles["grad_norm"][0, -1]

    for name, settings in SETTINGS.items():
        group = where(runs, settings)
        plot_over_setting(axes, group, "model.depth", last_gradient, label=name, **STYLES[name])
    depths = np.array(DEPTHS)
    plot_theory(axes, depths, 2.3 * depths**-0.5, label="slope −1/2")
    axes.axhline(2.6, color="black", linestyle=":", linewidth=0.9, label="slope 0")
    axes.legend(loc="lower left", ncols=2)
    axes.set(xscale="log", yscale="log", ylim=(0.1, 4), xlabel="blocks", ylabel="gradient norm")
    axes.set(title="last feed-forward part")
    set_ticks(axes.xaxis, DEPTHS)
    set_ticks(axes.yaxis, (0.1, 0.2, 0.5, 1, 2))


def _draw_all_parts(axes: Axes, runs: Sequence[Run]) -> None:
    for name, settings in SETTINGS.items():
        profiles = initial_profiles(where(runs, settings), "grad_norm")
        feed_forward = profiles[:, 1::2]  # attention and feed-forward parts alternate
        blocks = np.arange(1, DEPTHS[-1] + 1)
        band(axes, blocks, feed_forward, label=name, markevery=4, **STYLES[name])
    axes.set(
        yscale="log",
        xlabel="block",
        ylabel="gradient norm",
        title="every feed-forward part, 32 blocks",
    )
    set_ticks(axes.yaxis, (0.3, 0.5, 1, 2, 3))


def _draw_output_change(axes: Axes, runs: Sequence[Run]) -> None:
    def output_change(run: Run) -> float:
        return run.inspections["output_change"][0]

    for name, settings in SETTINGS.items():
        group = where(runs, settings)
        plot_over_setting(axes, group, "model.depth", output_change, label=name, **STYLES[name])
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="blocks",
        title="change of the outputs by a step of descent, rms",
    )
    set_ticks(axes.xaxis, DEPTHS)


def _draw_training(axes: Axes, runs: Sequence[Run]) -> None:
    """Means of ten steps; dashed with warm-up."""
    for name, settings in SETTINGS.items():
        group = where(runs, settings)
        for warmup in setting_values(group, "optimizer.warmup_steps"):
            same_warmup = where(group, {"optimizer.warmup_steps": warmup})
            plot_metric(
                axes,
                same_warmup,
                "train_loss",
                window=10,
                label=f"{name}, warm-up" if warmup else name,
                linestyle="--" if warmup else "-",
                markevery=5,
                **STYLES[name],
            )
    axes.set(xlabel="step", ylim=(2.3, 4.2), title="training loss (nats a character), 10 blocks")
    axes.legend(loc="upper right")
