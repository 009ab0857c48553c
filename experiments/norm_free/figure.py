"""Training without normalisation at three depths, its first step's Jacobian and gradient, branches behind a norm."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import at_best_rate, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, band, new_figure

DEPTHS = {64: (PALETTE[5], "^"), 256: (PALETTE[1], "s"), 1000: (PALETTE[0], "o")}
ROUNDING = 2.0**-24  # from 1 to the number before it in float32


def figure(runs: Sequence[Run]) -> Figure:
    """Above training and the Jacobian of the first step, below its gradients and branches behind batch norm."""
    canvas, axes = new_figure(6.4, 5.0, 2, 2)
    rezero = where(runs, {"skip.kind": "rezero"})
    _training(axes[0, 0], rezero)
    _jacobian(axes[0, 1], rezero)
    _first_step(axes[1, 0], where(rezero, {"model.depth": 1000}))
    _branches(axes[1, 1], where(runs, {"norm.kind": "batch"}))
    canvas.suptitle(
        "A learned scale begun at 0 trains a thousand layers without normalisation", fontsize=9
    )
    return canvas


def _training(axes: Axes, runs: Sequence[Run]) -> None:
    for depth, (colour, marker) in DEPTHS.items():
        deep = where(runs, {"model.depth": depth})
        best = at_best_rate(deep)
        curves = np.stack([run.metrics["train_loss"].reshape(-1, 10).mean(axis=1) for run in best])
        label = f"{depth} layers" + (", Adam" if best[0]["optimizer.kind"] == "adam" else "")
        steps = np.arange(curves.shape[1]) * 10 + 5
        band(
            axes,
            steps,
            curves,
            color=colour,
            marker=marker,
            markevery=3,
            markersize=3.5,
            label=label,
        )
    axes.legend(loc="upper right")
    axes.set(yscale="log", ylim=(4e-3, 8), xlabel="step", title="training loss (10 steps)")


def _jacobian(axes: Axes, runs: Sequence[Run]) -> None:
    """Every run is a mark; the axis is linear below 1e-9, so that 0 has a place on it."""
    for depth, (colour, marker) in DEPTHS.items():
        distances = [
            run.inspections["jacobian_distance"][0] for run in where(runs, {"model.depth": depth})
        ]
        axes.plot(
            [depth] * len(distances), distances, marker, color=colour, markersize=7, clip_on=False
        )
    axes.axhline(ROUNDING, color="black", linestyle="--", linewidth=0.9)
    axes.annotate("from 1 to the next float32: $2^{-24}$", (64, ROUNDING), (0, 4),
                  textcoords="offset points", fontsize=7)  # fmt: skip
    axes.set_yscale("symlog", linthresh=1e-9)
    axes.set(xscale="log", xlim=(45, 1400), ylim=(-4e-10, 1), xlabel="layers")
    axes.set_yticks([0, 1e-8, 1e-6, 1e-4, 1e-2, 1])
    axes.set_xticks(list(DEPTHS), map(str, DEPTHS))
    axes.minorticks_off()
    axes.set_title("first step: greatest $|J-I|$ of\nthe Jacobian $J=\\partial h_N/\\partial h_0$")


def _first_step(axes: Axes, runs: Sequence[Run]) -> None:
    """One run a seed: the learning rate is not felt yet."""
    seeds = list({run["seed"]: run for run in runs}.values())
    signal = np.stack([run.profiles["signal_grad"][0] for run in seeds])
    layers = np.arange(signal.shape[1])
    axes.plot(
        layers,
        (signal / signal[:, -1:]).mean(axis=0),
        color=PALETTE[0],
        label="$\\|\\partial L/\\partial h\\|$",
    )
    alphas = seeds[0].profiles["grad_norm"][0] / signal[0, -1]
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


def _branches(axes: Axes, runs: Sequence[Run]) -> None:
    """What each block adds to the variance of the stream, over what was there."""
    squares = np.stack([run.profiles["activation_rms"][0].astype(float) ** 2 for run in runs])
    shares = np.diff(squares, axis=1) / squares[:, :-1]
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
    axes.plot(
        blocks, 1 / (1 + blocks), color="black", linestyle="--", linewidth=0.9, label="$1/(1+l)$"
    )
    axes.legend(loc="lower left")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="block $l$",
        title="batch norm: variance\nof branch over stream",
    )
