"""Singular values of input-output Jacobians by initialisation, and training at depth 200."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import at_best_rate, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, CurveStyle, new_figure
from research.reporting.panels import plot_metric, plot_over_setting, plot_theory

INITS = {
    "lecun": CurveStyle("Gaussian", PALETTE[1], linestyle="--"),
    "orthogonal": CurveStyle("orthogonal", PALETTE[0], linestyle="-"),
}
DEPTHS = (1, 2, 5, 10, 20)


def figure(runs: Sequence[Run]) -> Figure:
    """The spectrum of tanh networks, the spread of linear networks over depth, and training."""
    canvas, axes = new_figure(7.2, 2.7, 1, 3)
    _plot_spectrum(axes[0, 0], runs)
    _plot_spread(axes[0, 1], runs)
    _plot_training(axes[0, 2], runs)
    canvas.suptitle(
        "Orthogonal weights keep the singular values together, "
        "and a tanh network of depth 200 trains",
        fontsize=9,
    )
    return canvas


def _singular_values(run: Run) -> np.ndarray:
    return run.inspections["jacobian_spectrum"][0]


def _plot_spectrum(axes: Axes, runs: Sequence[Run]) -> None:
    bins = np.linspace(-4, 1, 41).tolist()
    for init, style in INITS.items():
        settings = {"activation.kind": "tanh", "model.depth": 20, "init.kind": init}
        values = np.concatenate([_singular_values(run) for run in where(runs, settings)])
        axes.hist(
            np.log10(values).clip(-4, 1),
            bins,
            color=style.color,
            alpha=0.75,
            label=style.label,
            density=True,
        )
    axes.set(
        xlabel="log₁₀ singular value\n(first bin: all below)",
        ylabel="density",
        title="tanh, depth 20, width 200",
    )
    axes.legend(loc="upper right")


def _plot_spread(axes: Axes, runs: Sequence[Run]) -> None:
    linear = where(runs, {"activation.kind": "linear", "init.kind": "lecun"})

    def spread(run: Run) -> float:
        return float(np.var(_singular_values(run) ** 2))

    gaussian = dataclasses.replace(INITS["lecun"], marker="o", linestyle="-")
    plot_over_setting(axes, linear, "model.depth", spread, markersize=3, **gaussian.keywords)
    plot_theory(axes, DEPTHS, DEPTHS, label="theory: L")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="depth L",
        title="linear: variance of\nsquared singular values",
    )
    axes.legend(loc="upper left")


def _plot_training(axes: Axes, runs: Sequence[Run]) -> None:
    for init, style in INITS.items():
        group = where(runs, {"model.depth": 200, "init.kind": init})
        plot_metric(axes, at_best_rate(group), "train_loss", **style.keywords)
    axes.axhline(np.log(10), color="0.5", linewidth=0.7)
    axes.set(
        xlabel="training step",
        ylabel="training loss (nats)",
        title="tanh, depth 200, best rate",
    )
    axes.legend(loc="center right", bbox_to_anchor=(1.0, 0.38))
