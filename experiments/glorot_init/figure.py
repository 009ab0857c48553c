"""Signal, gradient and weights' gradient over depth under both initialisations, and the training loss."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from research.records.queries import at_best_rate, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, band, decades, new_figure
from research.theory import profiles as theory

SCHEMES = {
    "old_uniform": ("$U(\\pm1/\\sqrt{n})$", PALETTE[1], 1 / 3),
    "glorot_uniform": ("normalised", PALETTE[0], 1.0),
}
MARKERS = {"tanh": "o", "softsign": "^", "sigmoid": "s"}
TRAINED = {"sigmoid": (PALETTE[1], "s"), "tanh": (PALETTE[0], "o"), "relu": (PALETTE[2], "v")}


def figure(runs: Sequence[Run]) -> Figure:
    """Signal and gradient above, weights' gradient and training loss beneath."""
    canvas, axes = new_figure(7.0, 5.0, 2, 2)
    noise = where(runs, {"data.name": "noise"})
    _profiles(axes[0, 0], noise, "activation_rms", end=0)
    _profiles(axes[0, 1], noise, "signal_grad", end=-1)
    _profiles(axes[1, 0], noise, "grad_norm", end=-1)
    _training(axes[1, 1], where(runs, {"data.name": "digits"}))
    axes[0, 0].set_title("signal: square of $h$, first layer = 1")
    axes[0, 1].set_title("back-propagated: squared $\\partial L/\\partial h$, last layer = 1")
    axes[1, 0].set_title("squared gradient of the weights, last layer = 1")
    _legends(axes)
    canvas.suptitle(
        "Normalised initial weights keep the back-propagated gradient; a sigmoid loses it anyhow",
        fontsize=9,
    )
    return canvas


def _profiles(axes: Axes, runs: Sequence[Run], gauge: str, *, end: int) -> None:
    for scheme, (_, colour, variance) in SCHEMES.items():
        for activation, marker in MARKERS.items():
            if gauge == "activation_rms" and activation == "sigmoid":
                continue  # its outputs have the mean 1/2: another matter
            group = where(runs, {"init.kind": scheme, "activation.kind": activation})
            logs = np.stack([2 * np.log10(run.profiles[gauge][0].astype(float)) for run in group])
            layers = np.arange(logs.shape[1]) + (gauge == "grad_norm")
            band(axes, layers, logs - logs[:, [end]], color=colour, marker=marker, markersize=3.5)
            if gauge == "signal_grad":
                axes.plot(
                    layers,
                    _theory(activation, variance),
                    color="black",
                    linestyle="--",
                    linewidth=0.7,
                )
    decades(axes)
    axes.yaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.set(xlabel="layer")


def _theory(activation: str, variance: float) -> np.ndarray:
    settings: dict[str, Any] = {
        "sigma_b2": 0.0,
        "depth": 10,
        "branch_scale": 1.0,
        "shortcut_scale": 0.0,
        "batch": 128,
    }
    how = settings | {"norm": "none", "placement": "pre", "sigma_w2": variance, "q0": variance}
    profile = theory.predict_profile(activation=activation, **how)
    assert profile is not None
    return profile / math.log(10)


def _training(axes: Axes, runs: Sequence[Run]) -> None:
    for activation, (colour, marker) in TRAINED.items():
        group = where(runs, {"activation.kind": activation})
        best = at_best_rate(group)
        curves = np.stack([run.metrics["train_loss"].reshape(-1, 10).mean(axis=1) for run in best])
        label = {"relu": "ReLU"}.get(activation, activation)
        steps = np.arange(curves.shape[1]) * 10 + 5
        band(
            axes,
            steps,
            curves,
            color=colour,
            marker=marker,
            markevery=5,
            markersize=3.5,
            label=label,
        )
    axes.axhline(math.log(10), color="0.5", linestyle=":", linewidth=0.8)
    axes.text(300, math.log(10) * 1.35, "chance: ln 10", fontsize=7, ha="right")
    axes.legend(loc="lower left")
    axes.set(
        yscale="log",
        ylim=(2e-4, 6),
        xlabel="step",
        title="training loss on digits, best learning rate",
    )


def _legends(axes: np.ndarray) -> None:
    colours = [Line2D([], [], color=colour, label=label) for label, colour, _ in SCHEMES.values()]
    markers = [
        Line2D(
            [], [], color="0.3", linestyle="none", marker=marker, markersize=3.5, label=activation
        )
        for activation, marker in MARKERS.items()
    ]
    dashed = Line2D([], [], color="black", linestyle="--", linewidth=0.7, label="theory")
    axes[0, 0].legend(handles=colours, loc="lower left")
    axes[0, 1].legend(handles=[*markers, dashed], loc="lower right")
