"""The squared gradient over depth with and without batch norm, and its factor a layer over the batch size."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.diagnosis.verdict import log_profile
from research.records.queries import where
from research.records.runs import Run
from research.reporting.figures import PALETTE, band, decades, new_figure
from research.theory import profiles as theory

BATCHES = {8: (PALETTE[3], "s"), 32: (PALETTE[5], "^"), 256: (PALETTE[1], "o")}
SKIPPED = 2  # layers, left out of the fit
LIMIT = math.pi / (math.pi - 1)


def figure(runs: Sequence[Run]) -> Figure:
    """Left the gradient over depth, right the factor a layer over the batch size."""
    canvas, axes = new_figure(7.0, 3.0, 1, 2)
    noise = where(runs, {"data.name": "noise"})
    _profiles(axes[0, 0], noise)
    _factors(axes[0, 1], where(noise, {"norm.kind": "batch", "skip.kind": "none"}))
    canvas.suptitle(
        "Batch norm makes plain networks explode, by a factor a layer that depends on the batch size alone",
        fontsize=9,
    )
    return canvas


def _profiles(axes: Axes, runs: Sequence[Run]) -> None:
    plain = where(runs, {"activation.kind": "relu", "skip.kind": "none"})
    for batch, (colour, marker) in BATCHES.items():
        group = where(plain, {"norm.kind": "batch", "train.batch_size": batch})
        _curve(axes, group, label=f"batch norm, $B={batch}$", color=colour, marker=marker)
        rate = theory.batch_norm_rate("relu", batch)
        assert rate is not None
        axes.plot([0, 30], [30 * math.log10(rate), 0], color="black", linestyle="--", linewidth=0.8)
    _curve(
        axes,
        where(runs, {"skip.kind": "identity"}),
        label="with shortcuts",
        color=PALETTE[2],
        marker="v",
    )
    _curve(
        axes,
        where(runs, {"norm.kind": "none"}),
        label="no batch norm",
        color=PALETTE[0],
        marker="D",
    )
    axes.plot([], [], color="black", linestyle="--", linewidth=0.8, label="theory")
    axes.legend(loc="upper right")
    decades(axes)
    axes.set(
        xlabel="layer",
        ylabel="squared gradient\nrelative to the last layer",
        title="ReLU, 30 layers",
    )


def _curve(axes: Axes, runs: Sequence[Run], **style: Any) -> None:
    curves = np.stack([log_profile(run.profiles["signal_grad"][0]) for run in runs]) / math.log(10)
    band(axes, np.arange(curves.shape[1]), curves, markevery=5, markersize=3.5, **style)


def _factors(axes: Axes, runs: Sequence[Run]) -> None:
    for activation, colour, marker in (("relu", PALETTE[1], "o"), ("linear", PALETTE[4], "s")):
        fine = np.geomspace(4.5 if activation == "linear" else 6, 512, 200)
        curve = [theory.batch_norm_rate(activation, batch) for batch in fine]
        axes.plot(fine, np.array(curve, float), color="black", linestyle="--", linewidth=0.8)
        group = where(runs, {"activation.kind": activation})
        batches = [run["train.batch_size"] for run in group]
        label = {"relu": "ReLU", "linear": "linear"}[activation]
        factors = [_factor(run) for run in group]
        axes.plot(
            batches,
            factors,
            linestyle="none",
            color=colour,
            marker=marker,
            markersize=4,
            label=label,
        )
    axes.plot([], [], color="black", linestyle="--", linewidth=0.8, label="theory")
    axes.axhline(LIMIT, color="0.5", linewidth=0.8, linestyle=":")
    axes.text(13, LIMIT - 0.015, "$\\pi/(\\pi-1)$", fontsize=7, va="top")
    axes.legend(loc="upper right")
    ticks = (6, 8, 32, 128, 256)
    axes.set(xscale="log", xlim=(4.5, 560), ylim=(0.95, 2.05), xlabel="batch size $B$")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(ylabel="factor a layer", title="a dot is a seed")


def _factor(run: Run) -> float:
    logs = log_profile(run.profiles["signal_grad"][0])[SKIPPED:]
    return math.exp(-float(np.polyfit(np.arange(len(logs)), logs, 1)[0]))
