"""Gradients that grow over layers and over time, where the format ends, and what clipping does."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.gauges.numbering import entry_layers
from research.records.queries import at_best_rate, completed, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, new_figure
from research.reporting.panels import (
    plot_ended,
    plot_metric,
    plot_profile,
    plot_theory,
    relative_gradient,
)

VARIANCES = {2.0: PALETTE[2], 2.5: PALETTE[5], 3.0: PALETTE[1], 4.0: PALETTE[3]}
GAINS = {1.1: PALETTE[1], 1.0: PALETTE[2], 0.9: PALETTE[0]}
SHALLOW = 10  # layers of the network that clipping rescues
WINDOW = 10  # steps that one point of a curve is the mean of
FLOAT32_MAX = float(np.finfo(np.float32).max)


def figure(runs: Sequence[Run]) -> Figure:
    """Above the gradient over layers and over time; below the overflow, and training."""
    canvas, axes = new_figure(7.2, 5.2, 2, 2)
    _plot_depth(axes[0, 0], where(runs, {"model.width": 256}))
    _plot_time(axes[0, 1], where(runs, {"model.kind": "rnn"}))
    _plot_overflow(axes[1, 0], where(runs, {"model.depth": 300}))
    _plot_training(axes[1, 1], runs)
    canvas.suptitle(
        "A factor above 1, again and again: gradients explode, and clipping helps up to a depth",
        fontsize=9,
    )
    return canvas


def _has_variance(run: Run, variance: float) -> bool:
    return math.isclose(run["init.sigma_w"] ** 2, variance)


def _plot_depth(axes: Axes, runs: Sequence[Run]) -> None:
    for variance, colour in VARIANCES.items():
        group = [run for run in runs if _has_variance(run, variance)]
        gradient = relative_gradient(group)
        plot_profile(axes, gradient, factor=variance / 2, color=colour)
        factor = f"× {variance / 2:g} a layer"
        axes.text(1, gradient.mean[1] * 4, factor, color=colour, fontsize=7.5)
    plot_theory(axes, [], [], label="theory: (σ²/2) a layer")
    axes.legend(loc="upper right")
    axes.set(
        yscale="log",
        ylim=(1e-2, 1e18),
        xlabel="layer (the gradient travels to the left)",
        ylabel="squared gradient over the last layer's",
        title="Over depth",
    )


def _plot_time(axes: Axes, runs: Sequence[Run]) -> None:
    for gain, colour in GAINS.items():
        gradient = relative_gradient(where(runs, {"init.gain": gain}))
        plot_profile(axes, gradient, factor=gain**2, color=colour)
        axes.text(
            4,
            gradient.mean[4] * (3 if gain >= 1 else 60),
            f"× {gain**2:.2f} a step",
            color=colour,
            fontsize=7.5,
        )
    axes.set(
        yscale="log",
        ylim=(1e-7, 1e8),
        xlabel="time step (the gradient travels to the left)",
        ylabel="squared gradient over the last step's",
        title="Over time, in a recurrent network",
    )


def _plot_overflow(axes: Axes, runs: Sequence[Run]) -> None:
    group = [run for run in runs if not _has_variance(run, 2)]
    ends = []
    for run in group:
        rms = run.profiles["activation_rms"][0].astype(float)
        finite = np.where(np.isfinite(rms), rms, np.nan)
        layers = entry_layers(len(finite), is_signals=True)
        axes.plot(layers, finite, color=PALETTE[3], linewidth=0.9)
        ends.append(run.info["verdict"]["first_layer"])
    axes.axhline(FLOAT32_MAX, color="black", linestyle="--", linewidth=0.9)
    axes.text(5, FLOAT32_MAX * 3, "the greatest number of float32", fontsize=7)
    end = float(np.median(ends))
    axes.annotate(
        "overflow: the verdict\nnames this layer",
        (end, FLOAT32_MAX),
        xytext=(0.62, 0.3),
        textcoords="axes fraction",
        arrowprops={"arrowstyle": "->", "color": "0.4"},
        fontsize=7.5,
    )
    axes.set(
        yscale="log",
        ylim=(1e-1, 1e43),
        xlim=(0, 300),
        xlabel="layer",
        ylabel="size of the signal",
        title="Where the numbers end (σ² = 4)",
    )


def _plot_training(axes: Axes, runs: Sequence[Run]) -> None:
    shallow = where(runs, {"model.depth": SHALLOW})
    deep = where(runs, {"model.depth": 64, "model.kind": "mlp"})
    groups = {
        f"{SHALLOW} layers, clipped": (where(shallow, {"optimizer.clip": "global_norm"}), 0),
        "64 layers, clipped": (at_best_rate(where(deep, {"skip.kind": "none"})), 3),
        "64 layers, clipped,\nwith shortcuts": (
            at_best_rate(where(deep, {"skip.kind": "inv_sqrt_depth"})),
            2,
        ),
    }
    for label, (group, number) in groups.items():
        trained = completed(group)
        colour = PALETTE[number]
        plot_metric(axes, trained, "train_loss", window=WINDOW, label=label, color=colour)
    unclipped = where(shallow, {"optimizer.clip": "none"})
    for run in unclipped:
        losses = run.metrics["train_loss"]
        finite = losses[np.isfinite(losses)]
        plot_ended(axes, np.arange(len(finite)), finite, PALETTE[1])
    axes.plot([], [], "x-", color=PALETTE[1], label=f"{SHALLOW} layers, not clipped: ends at ×")
    axes.axhline(math.log(10), color="0.5", linewidth=0.7)
    axes.text(300, math.log(10) * 1.3, "guessing", fontsize=6.5, color="0.4", ha="right")
    axes.legend(loc="upper right", fontsize=6.5)
    axes.set(
        yscale="log",
        ylim=(3e-3, 1e13),
        xlabel="training step",
        ylabel="training loss (nats)",
        title="Clipping rescues, up to a depth",
    )
