"""The squared gradient over depth with and without batch norm, and its factor per layer."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import where
from research.records.runs import Run
from research.reporting.figures import PALETTE, CurveStyle, new_figure, set_log_scale, set_ticks
from research.reporting.panels import plot_profile, plot_theory, relative_gradient
from research.reproduce.claims import log_factor
from research.theory import profiles as theory

NORMALISED = {  # by batch size
    8: CurveStyle("batch norm, $B=8$", PALETTE[3], "s"),
    32: CurveStyle("batch norm, $B=32$", PALETTE[5], "^"),
    256: CurveStyle("batch norm, $B=256$", PALETTE[1], "o"),
}
WITH_SHORTCUTS = CurveStyle("with shortcuts", PALETTE[2], "v")
WITHOUT_NORM = CurveStyle("no batch norm", PALETTE[0], "D")
ACTIVATIONS = {
    "relu": CurveStyle("ReLU", PALETTE[1], "o"),
    "linear": CurveStyle("linear", PALETTE[4], "s"),
}
SMALLEST_BATCH = {"relu": 6, "linear": 4.5}  # the left end of the predicted curve
SKIPPED = 2  # layers left out of the fit
LIMIT = math.pi / (math.pi - 1)


def figure(runs: Sequence[Run]) -> Figure:
    """Left the gradient over depth, right the factor per layer over the batch size."""
    canvas, axes = new_figure(7.0, 3.0, 1, 2)
    noise = where(runs, {"data.name": "noise"})
    _plot_profiles(axes[0, 0], noise)
    _plot_factors(axes[0, 1], where(noise, {"norm.kind": "batch", "skip.kind": "none"}))
    canvas.suptitle(
        "Batch norm makes plain networks explode, "
        "by a factor a layer that depends on the batch size alone",
        fontsize=9,
    )
    return canvas


def _plot_profiles(axes: Axes, runs: Sequence[Run]) -> None:
    plain = where(runs, {"activation.kind": "relu", "skip.kind": "none"})
    for batch, style in NORMALISED.items():
        group = where(plain, {"norm.kind": "batch", "train.batch_size": batch})
        _plot_gradient(axes, group, style, theory.batch_norm_rate("relu", batch))
    _plot_gradient(axes, where(runs, {"skip.kind": "identity"}), WITH_SHORTCUTS)
    _plot_gradient(axes, where(runs, {"norm.kind": "none"}), WITHOUT_NORM)
    plot_theory(axes, [], [], linewidth=0.8, label="theory")
    axes.legend(loc="upper right")
    set_log_scale(axes)
    axes.set(
        xlabel="layer",
        ylabel="squared gradient\nrelative to the last layer",
        title="ReLU, 30 layers",
    )


def _plot_gradient(
    axes: Axes,
    runs: Sequence[Run],
    style: CurveStyle,
    factor: float | None = None,
) -> None:
    gradient = relative_gradient(runs)
    plot_profile(axes, gradient, factor=factor, markevery=5, markersize=3.5, **style.keywords)


def _plot_factors(axes: Axes, runs: Sequence[Run]) -> None:
    for activation, style in ACTIVATIONS.items():
        _plot_predicted_factors(axes, activation)
        _plot_measured_factors(axes, where(runs, {"activation.kind": activation}), style)
    plot_theory(axes, [], [], linewidth=0.8, label="theory")
    axes.axhline(LIMIT, color="0.5", linewidth=0.8, linestyle=":")
    axes.text(13, LIMIT - 0.015, "$\\pi/(\\pi-1)$", fontsize=7, va="top")
    axes.legend(loc="upper right")
    axes.set(xscale="log", xlim=(4.5, 560), ylim=(0.95, 2.05), xlabel="batch size $B$")
    set_ticks(axes.xaxis, (6, 8, 32, 128, 256))
    axes.set(ylabel="factor a layer", title="a dot is a seed")


def _plot_predicted_factors(axes: Axes, activation: str) -> None:
    batches = np.geomspace(SMALLEST_BATCH[activation], 512, 200)
    rates = [theory.batch_norm_rate(activation, batch) for batch in batches]
    plot_theory(axes, batches, np.array(rates, float), linewidth=0.8)


def _plot_measured_factors(
    axes: Axes,
    runs: Sequence[Run],
    style: CurveStyle,
) -> None:
    batches = []
    factors = []
    for run in runs:
        batches.append(run["train.batch_size"])
        factors.append(math.exp(log_factor(run, first_layer=SKIPPED)))
    axes.plot(
        batches,
        factors,
        linestyle="none",
        color=style.color,
        marker=style.marker,
        markersize=4,
        label=style.label,
    )
