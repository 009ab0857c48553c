"""Adam's update over the size of a gradient, and over the layers of a deep network."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import setting_values, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, new_figure, set_ticks
from research.reporting.panels import band, plot_metric, plot_theory
from research.theory.update_rules import adam_update_share

WINDOW = 20  # steps that one point is the mean of


def figure(runs: Sequence[Run]) -> Figure:
    """Left the law, middle the first update of each layer, right the loss."""
    canvas, axes = new_figure(7.5, 2.7, 1, 3)
    law, layers, loss = axes[0]
    _draw_law(law, where(runs, {"precision.kind": "float64"}))
    deep = where(runs, {"precision.kind": "float32"})
    for epsilon, colour in zip(setting_values(deep, "optimizer.epsilon"), PALETTE, strict=False):
        group = where(deep, {"optimizer.epsilon": epsilon})
        exponent = round(np.log10(epsilon))
        label = f"$\\epsilon=10^{{{exponent}}}$"
        _draw_layers(layers, group, colour, label=label)
        plot_metric(loss, group, "train_loss", window=WINDOW, color=colour, label=label)
    layers.set(
        yscale="log",
        xlabel="layer of 12",
        ylabel="first update over $\\eta$",
    )
    set_ticks(layers.xaxis, (1, 4, 8, 12))
    layers.legend(loc="lower right")
    loss.axhline(np.log(10), color="black", linestyle=":", linewidth=0.9, label="chance")
    loss.legend(loc="lower left")
    loss.set(xlabel="step of Adam", ylabel="training loss")
    canvas.suptitle(
        "Adam makes up for small gradients down to ε, and not below",
        fontsize=9,
    )
    return canvas


def _draw_law(axes: Axes, runs: Sequence[Run]) -> None:
    for epsilon, colour in zip(setting_values(runs, "optimizer.epsilon"), PALETTE, strict=False):
        run = where(runs, {"optimizer.epsilon": epsilon})[0]
        weights = run.inspections["parameters"]
        steps = run.inspections["step"]
        moved = np.abs(weights[-1] - weights[0]) / (steps[-1] - steps[0])
        gradient = np.abs(run.inspections["parameter_gradient"][0])
        axes.plot(
            gradient / epsilon,
            moved / run["optimizer.learning_rate"],
            ".",
            color=colour,
            markersize=2,
            label=f"$\\epsilon={epsilon:g}$",
            rasterized=True,
        )
    sizes = np.logspace(-2, 1.5, 100)
    plot_theory(axes, sizes, adam_update_share(sizes, 1.0), label="$|g|/(|g|+\\epsilon)$")
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(1e-2, 30),
        ylim=(8e-3, 1.5),
        xlabel="$|g|\\,/\\,\\epsilon$ of a weight",
        ylabel="$|\\Delta\\theta|\\,/\\,\\eta$",
    )
    axes.legend(loc="lower right")


def _draw_layers(
    axes: Axes,
    runs: Sequence[Run],
    colour: str,
    *,
    label: str,
) -> None:
    elements = runs[0]["model.width"] * (runs[0]["model.width"] + 1)
    curves = []
    for run in runs:
        update = run.profiles["update_norm"][0].astype(float)
        curves.append(update / np.sqrt(elements) / run["optimizer.learning_rate"])
    layers = np.arange(1, len(curves[0]) + 1)
    band(axes, layers, np.stack(curves), color=colour, marker="o", markersize=3, label=label)
