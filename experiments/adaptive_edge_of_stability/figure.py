"""The curvature over training with Adam, in Adam's coordinates and in those of the weights."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import setting_values, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, new_figure
from research.reporting.panels import band
from research.theory.update_rules import adam_edge


def figure(runs: Sequence[Run]) -> Figure:
    """Left the loss, then both sharpnesses over the edge; one line for each β₁ and η."""
    canvas, axes = new_figure(7.5, 2.8, 1, 3)
    loss, preconditioned, raw = axes[0]
    colours = iter(PALETTE)
    for beta1 in setting_values(runs, "optimizer.beta1"):
        for rate in setting_values(runs, "optimizer.learning_rate"):
            settings = {"optimizer.beta1": beta1, "optimizer.learning_rate": rate}
            group = where(runs, settings)
            colour = next(colours)
            label = f"$\\beta_1={beta1:g},\\ \\eta={rate:g}$"
            _draw_loss(loss, group, colour, label)
            edge = adam_edge(rate, beta1)
            _draw_curvature(preconditioned, group, "preconditioned_sharpness", edge, colour)
            _draw_curvature(raw, group, "sharpness", 1.0, colour)
    loss.set(yscale="log", xlabel="step of Adam", ylabel="training loss")
    preconditioned.axhline(1, color="black", linestyle="--", linewidth=0.9)
    preconditioned.set(
        ylim=(0, 1.6),
        xlabel="step of Adam",
        ylabel="preconditioned sharpness\nover $(2+2\\beta_1)/((1-\\beta_1)\\eta)$",
    )
    raw.set(yscale="log", xlabel="step of Adam", ylabel="sharpness of the Hessian")
    loss.legend(loc="upper right")
    canvas.suptitle(
        "Under Adam it is the preconditioned Hessian that settles at the edge of stability",
        fontsize=9,
    )
    return canvas


def _inspected_steps(runs: Sequence[Run]) -> np.ndarray:
    return runs[0].inspections["step"].astype(int)


def _draw_loss(
    axes: Axes,
    runs: Sequence[Run],
    colour: str,
    label: str,
) -> None:
    steps = _inspected_steps(runs)
    curves = np.stack([run.metrics["train_loss"][steps] for run in runs])
    band(axes, steps, curves, color=colour, label=label)


def _draw_curvature(
    axes: Axes,
    runs: Sequence[Run],
    name: str,
    unit: float,
    colour: str,
) -> None:
    curves = np.stack([run.inspections[name].astype(float) / unit for run in runs])
    band(axes, _inspected_steps(runs), curves, color=colour)
