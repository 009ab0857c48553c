"""Loss and sharpness over training for several step sizes, and the edge 2/η of each of them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import completed, metric_curves, where
from research.records.runs import Run
from research.reporting.figures import depth_colours, new_figure, set_ticks
from research.reporting.panels import band

STEP_SIZES = (0.05, 0.1, 0.2, 0.4)


def figure(runs: Sequence[Run]) -> Figure:
    """Left the loss, right the sharpness; one line per step size, the range over seeds shaded.

    Runs that diverged are left out.
    """
    canvas, axes = new_figure(7.0, 2.9, 1, 2)
    loss = axes[0, 0]
    sharpness = axes[0, 1]
    for step_size, colour in zip(STEP_SIZES, depth_colours(len(STEP_SIZES)), strict=True):
        group = completed(where(runs, {"optimizer.learning_rate": step_size}))
        if group:
            _plot_loss(loss, group, colour, label=f"$\\eta={step_size:g}$")
            _plot_sharpness(sharpness, group, colour)
            _plot_edge(sharpness, step_size, colour)
    loss.set(yscale="log", xlabel="step of gradient descent", ylabel="training loss")
    loss.legend(loc="upper right")
    sharpness.set(
        yscale="log",
        xlabel="step of gradient descent",
        ylabel="sharpness\n(greatest Hessian eigenvalue)",
    )
    set_ticks(sharpness.yaxis, (5, 10, 20, 40))
    canvas.suptitle(
        "Where 2/η is within reach, the sharpness settles on it while the loss goes on falling",
        fontsize=9,
    )
    return canvas


def _inspected_steps(runs: Sequence[Run]) -> np.ndarray:
    return runs[0].inspections["step"].astype(int)


def _plot_loss(
    axes: Axes,
    runs: Sequence[Run],
    colour: object,
    *,
    label: str,
) -> None:
    steps = _inspected_steps(runs)
    losses = metric_curves(runs, "train_loss")[:, steps]
    band(axes, steps, losses, color=colour, label=label)


def _plot_sharpness(
    axes: Axes,
    runs: Sequence[Run],
    colour: object,
) -> None:
    curves = np.stack([run.inspections["sharpness"] for run in runs])
    band(axes, _inspected_steps(runs), curves, color=colour)


def _plot_edge(
    axes: Axes,
    step_size: float,
    colour: tuple[float, ...],
) -> None:
    edge = 2 / step_size
    axes.axhline(edge, color=colour, linestyle="--", linewidth=0.9)
    axes.text(
        4000,
        edge * 1.03,
        f"$2/{step_size:g}$",
        color=colour,
        fontsize=6.5,
        ha="right",
        va="bottom",
    )
