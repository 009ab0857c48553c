"""Training loss of 22 and 30 layers for two initialisations, and the gradient over depth before the first step."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.diagnosis.verdict import log_profile
from research.records.queries import at_best_rate, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, band, decades, new_figure

ARMS = {1: ("Xavier, $1/n$", PALETTE[1], "v"), 2: ("He, $2/n$", PALETTE[0], "o")}
STEPS = 10  # of a curve's means


def figure(runs: Sequence[Run]) -> Figure:
    """Left and middle the loss over steps, right the gradient; a line an initialisation, its range as a shade."""
    canvas, axes = new_figure(7.2, 2.8, 1, 3)
    for column, layers in enumerate((22, 30)):
        _losses(axes[0, column], where(runs, {"model.depth": layers - 1}))
        axes[0, column].set_title(f"{layers} layers")
    axes[0, 0].set_ylabel("training loss\n(nats, mean of 10 steps)")
    _gradients(axes[0, 2], where(runs, {"model.depth": 29}))
    canvas.suptitle(
        "Xavier's initialisation slows rectifier networks of 22 layers and stalls those of 30; He's trains both",
        fontsize=9,
    )
    return canvas


def _losses(axes: Axes, runs: Sequence[Run]) -> None:
    for variance, (label, colour, marker) in ARMS.items():
        arm = where(runs, {"init.sigma_w": math.sqrt(variance)})
        best = at_best_rate(arm)
        curves = np.stack(
            [run.metrics["train_loss"].reshape(-1, STEPS).mean(axis=1) for run in best]
        )
        steps = np.arange(curves.shape[1]) * STEPS + STEPS / 2
        band(
            axes,
            steps,
            curves,
            label=label,
            color=colour,
            marker=marker,
            markevery=6,
            markersize=3.5,
        )
    axes.axhline(math.log(10), color="black", linestyle=":", linewidth=0.9)
    axes.text(295, 2.34, "chance: ln 10", fontsize=7, ha="right", va="bottom")
    axes.set(ylim=(0, 2.6), xlabel="training step")


def _gradients(axes: Axes, runs: Sequence[Run]) -> None:
    for variance, (label, colour, marker) in ARMS.items():
        profiles = [log_profile(run.profiles["signal_grad"][0]) for run in _once(runs, variance)]
        curves = np.stack(profiles) / math.log(10)
        layers = np.arange(curves.shape[1])
        band(
            axes,
            layers,
            curves,
            label=label,
            color=colour,
            marker=marker,
            markevery=7,
            markersize=3.5,
        )
        axes.plot(
            layers,
            math.log10(variance / 2) * layers[::-1],
            color="black",
            linestyle="--",
            linewidth=0.9,
        )
    axes.plot(
        [],
        [],
        color="black",
        linestyle="--",
        linewidth=0.9,
        label="theory, $\\sigma_w^2/2$ a layer",
    )
    decades(axes)
    axes.legend(loc="lower right")
    axes.set(ylim=(-11, 2), xlabel="layer", title="30 layers before training")
    axes.set_ylabel(
        "squared gradient $\\|\\partial L/\\partial h\\|^2$\nrelative to the last layer"
    )


def _once(runs: Sequence[Run], variance: float) -> list[Run]:
    """One run a seed: the learning rate does not matter yet."""
    arm = where(runs, {"init.sigma_w": math.sqrt(variance)})
    return list({run["seed"]: run for run in arm}.values())
