"""Errors of plain and residual networks on CIFAR-10 over training, as in the paper's Fig. 6."""

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

DEPTHS = (20, 56, 110)
PUBLISHED = {20: 8.75, 56: 6.97, 110: 6.43}  # test errors of the residual networks, %


def figure(runs: Sequence[Run]) -> Figure:
    """Left plain, right residual; test errors solid, training dashed, published as diamonds."""
    canvas, axes = new_figure(7.0, 2.9, 1, 2)
    plain = axes[0, 0]
    residual = axes[0, 1]
    for depth, colour in zip(DEPTHS, depth_colours(3), strict=True):
        if depth <= 56:
            group = where(runs, {"skip.kind": "none", "model.depth": depth})
            _plot_errors(plain, group, colour, f"{depth} layers")
        group = where(runs, {"skip.kind": "identity", "model.depth": depth})
        _plot_errors(residual, group, colour, f"{depth} layers")
        steps = runs[0]["train.steps"]
        residual.plot(steps, PUBLISHED[depth], "D", color=colour, markersize=4)
    _finish(plain, "plain")
    _finish(residual, "residual")
    plain.set_ylabel("error in % (dashed: training)")
    canvas.suptitle(
        "CIFAR-10: plain networks get worse with depth, residual ones better", fontsize=9
    )
    return canvas


def _finish(axes: Axes, title: str) -> None:
    axes.set(title=title, xlabel="step", ylim=(0, 30))
    axes.legend(loc="upper right")


def _plot_errors(
    axes: Axes,
    runs: Sequence[Run],
    colour: object,
    label: str,
) -> None:
    """Draws the errors of the runs that trained to the end; nothing if there are none."""
    group = completed(runs)
    if not group:
        return
    rows = evaluated_rows(group[0])
    test = metric_curves(group, "eval_accuracy")[:, rows]
    train = means_up_to_evaluations(group, "train_accuracy")
    band(axes, rows, 100 * (1 - test), color=colour, label=label)
    train_error = 100 * (1 - train.mean(axis=0))
    axes.plot(rows, train_error, color=colour, linestyle="--", linewidth=0.9)  # type: ignore[arg-type]
