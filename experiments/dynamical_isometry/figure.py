"""Singular values of input-output Jacobians, Gaussian against orthogonal, and training at depth 200."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import at_best_rate, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, band, new_figure

INITS = {"lecun": ("Gaussian", PALETTE[1], "--"), "orthogonal": ("orthogonal", PALETTE[0], "-")}
DEPTHS = (1, 2, 5, 10, 20)


def figure(runs: Sequence[Run]) -> Figure:
    """Left the spectrum of tanh networks, in the middle its spread over depth, right training."""
    canvas, axes = new_figure(7.2, 2.7, 1, 3)
    _spectrum(axes[0, 0], runs)
    _spread(axes[0, 1], runs)
    _training(axes[0, 2], runs)
    canvas.suptitle(
        "Orthogonal weights keep the singular values together, and a tanh network of depth 200 trains",
        fontsize=9,
    )
    return canvas


def _spectrum(axes: Axes, runs: Sequence[Run]) -> None:
    bins = np.linspace(-4, 1, 41).tolist()
    for init, (label, colour, _) in INITS.items():
        group = where(runs, {"activation.kind": "tanh", "model.depth": 20, "init.kind": init})
        values = np.concatenate([run.inspections["jacobian_spectrum"][0] for run in group])
        axes.hist(
            np.log10(values).clip(-4, 1), bins, color=colour, alpha=0.75, label=label, density=True
        )
    axes.set(
        xlabel="log₁₀ singular value\n(first bin: all below)",
        ylabel="density",
        title="tanh, depth 20, width 200",
    )
    axes.legend(loc="upper right")


def _spread(axes: Axes, runs: Sequence[Run]) -> None:
    variances = np.array(
        [
            [np.var(run.inspections["jacobian_spectrum"][0] ** 2) for run in _linear(runs, depth)]
            for depth in DEPTHS
        ]
    )
    band(axes, DEPTHS, variances.T, color=PALETTE[1], marker="o", markersize=3, label="Gaussian")
    axes.plot(DEPTHS, DEPTHS, color="black", linestyle="--", linewidth=0.9, label="theory: L")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="depth L",
        title="linear: variance of\nsquared singular values",
    )
    axes.legend(loc="upper left")


def _linear(runs: Sequence[Run], depth: int) -> list[Run]:
    return where(runs, {"activation.kind": "linear", "init.kind": "lecun", "model.depth": depth})


def _training(axes: Axes, runs: Sequence[Run]) -> None:
    for init, (label, colour, line) in INITS.items():
        group = where(runs, {"model.depth": 200, "init.kind": init})
        best = at_best_rate(group)
        losses = np.stack([run.metrics["train_loss"] for run in best])
        band(axes, np.arange(losses.shape[1]), losses, color=colour, linestyle=line, label=label)
    axes.axhline(np.log(10), color="0.5", linewidth=0.7)
    axes.set(
        xlabel="training step", ylabel="training loss (nats)", title="tanh, depth 200, best rate"
    )
    axes.legend(loc="center right", bbox_to_anchor=(1.0, 0.38))
