"""What a prediction costs, how hard each loss pushes, and what label smoothing asks for."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.runs import Run
from research.reporting.figures import PALETTE, new_figure
from research.reporting.panels import plot_metric
from research.reproduce.experiments import load_module

SMOOTHING = {0.0: PALETTE[0], 0.1: PALETTE[2], 0.3: PALETTE[1]}
WINDOW = 10  # steps that one point of the loss is the mean of


def figure(runs: Sequence[Run]) -> Figure:
    """Left the cost, in the middle the gradient, right training with label smoothing."""
    canvas, axes = new_figure(7.4, 2.8, 1, 3)
    _plot_cost(axes[0, 0])
    _plot_gradient(axes[0, 1])
    _plot_training(axes[0, 2], runs)
    return canvas


def _plot_cost(axes: Axes) -> None:
    probabilities = np.linspace(0.02, 1, 400)
    axes.plot(probabilities, -np.log(probabilities), color=PALETTE[0])
    _mark(axes, 0.1, "sure and wrong\n90 % cat, 10 % dog", PALETTE[1], (0.19, 2.75))
    _mark(axes, 0.51, "hesitant and right\n49 % cat, 51 % dog", PALETTE[2], (0.36, 1.35))
    axes.set(
        xlim=(0, 1),
        ylim=(0, 4),
        xlabel="probability given to the truth (dog)",
        ylabel="loss in nats",
        title="A sure mistake costs most",
    )


def _mark(
    axes: Axes,
    probability: float,
    text: str,
    colour: str,
    place: tuple[float, float],
) -> None:
    """Marks a prediction with its cost.

    Args:
        axes: where to draw.
        probability: that of the true class.
        text: what the prediction is.
        colour: the colour of mark and text.
        place: where the text begins, in data units.
    """
    cost = -np.log(probability)
    axes.plot(probability, cost, "o", color=colour)
    axes.annotate(
        f"{text}: {cost:.2f}",
        (probability, cost),
        xytext=place,
        color=colour,
        fontsize=7,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8},
    )


def _plot_gradient(axes: Axes) -> None:
    gradient_sizes = load_module("cross_entropy", "claims").gradient_sizes
    probabilities = np.geomspace(1e-3, 0.999, 40)
    sizes = np.array([gradient_sizes(probability) for probability in probabilities])
    axes.plot(probabilities, sizes[:, 0], color=PALETTE[0])
    axes.plot(probabilities, sizes[:, 1], color=PALETTE[1])
    axes.text(1.3e-3, 1.5, "cross entropy", color=PALETTE[0], fontsize=7.5)
    axes.text(1.5e-2, 4e-3, "squared error", color=PALETTE[1], fontsize=7.5)
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(3e-4, 4),
        xlabel="probability given to the truth",
        ylabel="size of the gradient at the logits",
        title="Squared error gives up\non sure mistakes",
    )


def _plot_training(axes: Axes, runs: Sequence[Run]) -> None:
    claims = load_module("cross_entropy", "claims")
    for smoothing, colour in SMOOTHING.items():
        smoothed = claims.select_smoothed(runs, smoothing)
        plot_metric(axes, smoothed, "train_loss", window=WINDOW, color=colour)
        floor = claims.entropy(smoothing)
        axes.axhline(floor, color=colour, linestyle="--", linewidth=0.9)
        axes.text(
            smoothed[0]["train.steps"],
            floor + 0.04,
            f"smoothing {smoothing:g}",
            color=colour,
            fontsize=7,
            ha="right",
        )
    axes.set(
        ylim=(-0.1, 2.5),
        xlabel="training step",
        ylabel="loss in nats",
        title="A smoothed label\nhas a floor (dashed)",
    )
