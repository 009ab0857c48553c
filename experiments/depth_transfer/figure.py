"""Final loss over learning rate at three depths, for three factors of the branches."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import setting_values, where
from research.records.runs import Run
from research.reporting.figures import band, depth_colours, new_figure

DEPTHS = (2, 8, 32)
PANELS = {
    "identity": "$h+F(h)$",
    "inv_sqrt_depth": "$h+F(h)/\\sqrt{L}$",
    "scaled": "$h+F(h)/L$",
}
LARGEST = 3.5  # losses above are not drawn
LAST_STEPS = 10


def figure(runs: Sequence[Run]) -> Figure:
    """One panel for each factor, one line for each depth, the best rate marked."""
    canvas, axes = new_figure(7.5, 2.7, 1, 3)
    for panel, (kind, title) in zip(axes[0], PANELS.items(), strict=True):
        group = where(runs, {"skip.kind": kind})
        for depth, colour in zip(DEPTHS, depth_colours(len(DEPTHS)), strict=True):
            _draw(panel, where(group, {"model.depth": depth}), colour, label=f"$L={depth}$")
        panel.set(xscale="log", ylim=(0, LARGEST), xlabel="learning rate", title=title)
        panel.set_xscale("log", base=2)
    axes[0, 0].set_ylabel("training loss after 50 steps")
    axes[0, 0].legend(loc="lower left")
    canvas.suptitle(
        "With branches divided by √L or L, the best learning rate is the same at every depth",
        fontsize=9,
    )
    return canvas


def _draw(
    axes: Axes,
    runs: Sequence[Run],
    colour: object,
    *,
    label: str,
) -> None:
    rates = np.array(setting_values(runs, "optimizer.learning_rate"))
    rows = []
    for seed in setting_values(runs, "seed"):
        losses = []
        for rate in rates:
            (run,) = where(runs, {"seed": seed, "optimizer.learning_rate": rate})
            losses.append(_final_loss(run))
        rows.append(losses)
    curves = np.array(rows)
    shown = np.where(curves < LARGEST, curves, np.nan)
    has_value = np.any(np.isfinite(shown), axis=0)
    band(axes, rates[has_value], shown[:, has_value], color=colour, label=label)
    mean = np.mean(curves, axis=0)
    best = int(np.argmin(mean))
    if mean[best] < LARGEST:
        axes.plot(rates[best], mean[best], "v", color=colour, markersize=5)


def _final_loss(run: Run) -> float:
    if run.info["status"] == "diverged":
        return np.inf
    return float(np.mean(run.metrics["train_loss"][-LAST_STEPS:]))
