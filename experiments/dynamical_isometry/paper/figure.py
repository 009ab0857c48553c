"""Accuracy over training of plain tanh convolutional networks of thousands of layers."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import (
    completed,
    evaluated_rows,
    means_up_to_evaluations,
    metric_curves,
    where,
)
from research.records.runs import Run
from research.reporting.figures import depth_colours, new_figure
from research.reporting.panels import band

DEPTHS = (1250, 5000, 10000)


def figure(runs: Sequence[Run]) -> Figure:
    """One line per depth: training solid, as means between two evaluations, and test dashed."""
    canvas, axes = new_figure(4.5, 3.0)
    panel = axes[0, 0]
    for depth, colour in zip(DEPTHS, depth_colours(len(DEPTHS)), strict=True):
        group = completed(where(runs, {"model.depth": depth}))
        if group:
            _plot_accuracies(panel, group, colour, f"{depth:,} layers")
    panel.axhline(0.9, color="0.5", linestyle=":", linewidth=0.8)
    panel.set(xlabel="epoch", ylabel="accuracy (dashed: test)", ylim=(0, 1))
    panel.legend(loc="lower right")
    canvas.suptitle("CIFAR-10: orthogonal weights train thousands of plain layers", fontsize=9)
    return canvas


def _plot_accuracies(
    axes: Axes,
    runs: Sequence[Run],
    colour: object,
    label: str,
) -> None:
    rows = evaluated_rows(runs[0])
    epochs = runs[0].metrics["epoch"][rows]
    train = means_up_to_evaluations(runs, "train_accuracy")
    test = metric_curves(runs, "eval_accuracy")[:, rows].mean(axis=0)
    band(axes, epochs, train, color=colour, label=label)
    axes.plot(epochs, test, color=colour, linestyle="--", linewidth=0.9)  # type: ignore[arg-type]
