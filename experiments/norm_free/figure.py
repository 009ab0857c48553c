"""Training without normalisation at three depths, its first step's gradient, and branches behind batch norm."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.analysis import Run
from research.records.figures import PALETTE, band, new_figure
from research.records.selection import at_best_rate, where

DEPTHS = {64: (PALETTE[5], "^"), 256: (PALETTE[1], "s"), 1000: (PALETTE[0], "o")}


def figure(runs: Sequence[Run]) -> Figure:
    """Left training, in the middle the gradients of the first step, right branches behind batch norm."""
    canvas, axes = new_figure(7.2, 2.8, 1, 3)
    _training(axes[0, 0], where(runs, {"skip.kind": "rezero"}))
    _first_step(axes[0, 1], where(runs, {"skip.kind": "rezero", "model.depth": 1000}))
    _branches(axes[0, 2], where(runs, {"norm.kind": "batch"}))
    canvas.suptitle("A learned scale begun at 0 trains a thousand layers without normalisation", fontsize=9)
    return canvas


def _training(axes: Axes, runs: Sequence[Run]) -> None:
    for depth, (colour, marker) in DEPTHS.items():
        deep = where(runs, {"model.depth": depth})
        best = at_best_rate(deep)
        curves = np.stack([run.metrics["train_loss"].reshape(-1, 10).mean(axis=1) for run in best])
        label = f"{depth} layers" + (", Adam" if best[0]["optimizer.kind"] == "adam" else "")
        steps = np.arange(curves.shape[1]) * 10 + 5
        band(axes, steps, curves, color=colour, marker=marker, markevery=3, markersize=3.5, label=label)
    axes.legend(loc="upper right")
    axes.set(yscale="log", ylim=(4e-3, 8), xlabel="step", title="training loss (10 steps)")


def _first_step(axes: Axes, runs: Sequence[Run]) -> None:
    """One run a seed: the learning rate is not felt yet."""
    seeds = list({run["seed"]: run for run in runs}.values())
    signal = np.stack([run.profiles["signal_grad"][0] for run in seeds])
    layers = np.arange(signal.shape[1])
    axes.plot(layers, (signal / signal[:, -1:]).mean(axis=0), color=PALETTE[0], label="$\\|\\partial L/\\partial h\\|$")
    alphas = seeds[0].profiles["grad_norm"][0] / signal[0, -1]
    axes.plot(layers[1:], alphas, ".", color=PALETTE[3], markersize=2, label="$|\\partial L/\\partial\\alpha|$")
    axes.legend(loc="lower right", framealpha=0.9, frameon=True)
    axes.set(
        yscale="log", xlabel="layer", title="first step, 1000 layers,\nlast layer's $\\|\\partial L/\\partial h\\|=1$"
    )


def _branches(axes: Axes, runs: Sequence[Run]) -> None:
    """What each block adds to the variance of the stream, over what was there."""
    squares = np.stack([run.profiles["activation_rms"][0].astype(float) ** 2 for run in runs])
    shares = np.diff(squares, axis=1) / squares[:, :-1]
    blocks = np.arange(1, shares.shape[1] + 1)
    band(axes, blocks, shares, color=PALETTE[2], marker="o", markersize=3, markevery=0.1, label="measured")
    axes.plot(blocks, 1 / (1 + blocks), color="black", linestyle="--", linewidth=0.9, label="$1/(1+l)$")
    axes.legend(loc="lower left")
    axes.set(xscale="log", yscale="log", xlabel="block $l$", title="batch norm: variance\nof branch over stream")
