"""ReZero at three depths: training, and the Jacobian and gradients of its first step.

A fourth panel shows the branches of a network with batch norm.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import (
    at_best_rate,
    initial_inspections,
    initial_profiles,
    one_per_seed,
    where,
)
from research.records.runs import Run
from research.reporting.figures import PALETTE, CurveStyle, new_figure
from research.reporting.panels import band, plot_metric, plot_theory

STYLES = {  # by depth
    64: CurveStyle("64 layers, Adam", PALETTE[5], "^"),
    256: CurveStyle("256 layers", PALETTE[1], "s"),
    1000: CurveStyle("1000 layers", PALETTE[0], "o"),
}
ROUNDING = 2.0**-24  # from 1 to the number before it in float32


def figure(runs: Sequence[Run]) -> Figure:
    """Above training and the first step's Jacobian; below its gradients, and batch norm."""
    canvas, axes = new_figure(6.4, 5.0, 2, 2)
    rezero = where(runs, {"skip.kind": "rezero"})
    _draw_training(axes[0, 0], rezero)
    _draw_jacobian(axes[0, 1], rezero)
    _draw_first_step(axes[1, 0], where(rezero, {"model.depth": 1000}))
    _draw_branches(axes[1, 1], where(runs, {"norm.kind": "batch"}))
    canvas.suptitle(
        "A learned scale that starts at 0 trains a thousand layers without normalisation",
        fontsize=9,
    )
    return canvas


def _draw_training(axes: Axes, runs: Sequence[Run]) -> None:
    for depth, style in STYLES.items():
        best = at_best_rate(where(runs, {"model.depth": depth}))
        plot_metric(
            axes,
            best,
            "train_loss",
            window=10,
            markevery=3,
            markersize=3.5,
            **style.keywords,
        )
    axes.legend(loc="upper right")
    axes.set(yscale="log", ylim=(4e-3, 8), xlabel="step", title="training loss (10 steps)")


def _draw_jacobian(axes: Axes, runs: Sequence[Run]) -> None:
    """A mark for each run; the axis is linear below 1e-9, so that it can show 0."""
    for depth, style in STYLES.items():
        distances = initial_inspections(where(runs, {"model.depth": depth}), "jacobian_distance")
        axes.plot(
            [depth] * len(distances),
            distances,
            linestyle="none",
            marker=style.marker,
            color=style.color,
            markersize=7,
            clip_on=False,
        )
    axes.axhline(ROUNDING, color="black", linestyle="--", linewidth=0.9)
    axes.annotate(
        "from 1 to the next float32: $2^{-24}$",
        (64, ROUNDING),
        (0, 4),
        textcoords="offset points",
        fontsize=7,
    )
    axes.set_yscale("symlog", linthresh=1e-9)
    axes.set(xscale="log", xlim=(45, 1400), ylim=(-4e-10, 1), xlabel="layers")
    axes.set_yticks([0, 1e-8, 1e-6, 1e-4, 1e-2, 1])
    axes.set_xticks(list(STYLES), map(str, STYLES))
    axes.minorticks_off()
    axes.set_title("first step: greatest $|J-I|$ of\nthe Jacobian $J=\\partial h_N/\\partial h_0$")


def _draw_first_step(axes: Axes, runs: Sequence[Run]) -> None:
    """One run for each seed, as the learning rate has no effect yet."""
    first_steps = one_per_seed(runs)
    signal = initial_profiles(first_steps, "signal_grad")
    relative = signal / signal[:, -1:]
    layers = np.arange(signal.shape[1])
    axes.plot(
        layers,
        relative.mean(axis=0),
        color=PALETTE[0],
        label="$\\|\\partial L/\\partial h\\|$",
    )
    alphas = first_steps[0].profiles["grad_norm"][0] / signal[0, -1]
    axes.plot(
        layers[1:],
        alphas,
        ".",
        color=PALETTE[3],
        markersize=2,
        label="$|\\partial L/\\partial\\alpha|$",
    )
    axes.legend(loc="lower right", framealpha=0.9, frameon=True)
    axes.set(
        yscale="log",
        xlabel="layer",
        title="first step, 1000 layers,\nlast layer's $\\|\\partial L/\\partial h\\|=1$",
    )


def _draw_branches(axes: Axes, runs: Sequence[Run]) -> None:
    """What each block adds to the variance of the stream, relative to the variance before it."""
    variances = initial_profiles(runs, "activation_rms").astype(float) ** 2
    shares = np.diff(variances, axis=1) / variances[:, :-1]
    blocks = np.arange(1, shares.shape[1] + 1)
    band(
        axes,
        blocks,
        shares,
        color=PALETTE[2],
        marker="o",
        markersize=3,
        markevery=0.1,
        label="measured",
    )
    plot_theory(axes, blocks, 1 / (1 + blocks), label="$1/(1+l)$")
    axes.legend(loc="lower left")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="block $l$",
        title="batch norm: variance\nof branch over stream",
    )
