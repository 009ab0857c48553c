"""Training loss of 22 and 30 layers for two initialisations, and the gradient before training."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import (
    at_best_rate,
    one_per_seed,
    where,
)
from research.records.runs import Run
from research.reporting.figures import PALETTE, CurveStyle, new_figure, set_log_scale
from research.reporting.panels import (
    plot_metric,
    plot_profile,
    plot_theory,
    relative_gradient,
)

ARMS = {  # by σ_w²
    1: CurveStyle("Xavier, $1/n$", PALETTE[1], "v"),
    2: CurveStyle("He, $2/n$", PALETTE[0], "o"),
}
WINDOW = 10  # training steps that one point of a curve is the mean of


def figure(runs: Sequence[Run]) -> Figure:
    """Left and middle the loss over steps, right the gradient; the range over seeds is shaded."""
    canvas, axes = new_figure(7.2, 2.8, 1, 3)
    deep = where(runs, {"model.depth": 29})
    _plot_losses(axes[0, 0], where(runs, {"model.depth": 21}))
    _plot_losses(axes[0, 1], deep)
    _plot_gradients(axes[0, 2], deep)
    axes[0, 0].set_title("22 layers")
    axes[0, 1].set_title("30 layers")
    axes[0, 0].set_ylabel("training loss\n(nats, mean of 10 steps)")
    canvas.suptitle(
        "Xavier's initialisation slows rectifier networks of 22 layers and stalls those of 30; "
        "He's trains both",
        fontsize=9,
    )
    return canvas


def _plot_losses(axes: Axes, runs: Sequence[Run]) -> None:
    for variance, style in ARMS.items():
        group = where(runs, {"init.sigma_w": math.sqrt(variance)})
        plot_metric(
            axes,
            at_best_rate(group),
            "train_loss",
            window=WINDOW,
            markevery=6,
            markersize=3.5,
            **style.keywords,
        )
    axes.axhline(math.log(10), color="black", linestyle=":", linewidth=0.9)
    axes.text(295, 2.34, "chance: ln 10", fontsize=7, ha="right", va="bottom")
    axes.set(ylim=(0, 2.6), xlabel="training step")


def _plot_gradients(axes: Axes, runs: Sequence[Run]) -> None:
    """The learning rate does not matter before the first step, so one run per seed is enough."""
    for variance, style in ARMS.items():
        group = one_per_seed(where(runs, {"init.sigma_w": math.sqrt(variance)}))
        plot_profile(
            axes,
            relative_gradient(group),
            factor=variance / 2,
            markevery=7,
            markersize=3.5,
            **style.keywords,
        )
    plot_theory(axes, [], [], label="theory, $\\sigma_w^2/2$ a layer")
    axes.legend(loc="lower right")
    set_log_scale(axes)
    axes.set(ylim=(1e-11, 100), xlabel="layer", title="30 layers before training")
    axes.set_ylabel(
        "squared gradient $\\|\\partial L/\\partial h\\|^2$\nrelative to the last layer"
    )
