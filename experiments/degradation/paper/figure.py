"""Errors of plain and residual networks on CIFAR-10 over training, as in the paper's Fig. 6."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import where
from research.records.runs import Run
from research.reporting.figures import band, depth_colours, new_figure

DEPTHS = {"none": (20, 56), "identity": (20, 56, 110)}
PUBLISHED = {20: 8.75, 56: 6.97, 110: 6.43}  # test errors of the residual ones


def figure(runs: Sequence[Run]) -> Figure:
    """Left plain, right residual; test errors solid, training errors dashed, published ones as diamonds."""
    canvas, axes = new_figure(7.0, 2.9, 1, 2)
    for place, (skip, depths) in enumerate(DEPTHS.items()):
        for depth, colour in zip(depths, depth_colours(3), strict=False):
            _errors(
                axes[0, place],
                where(runs, {"skip.kind": skip, "model.depth": depth}),
                colour,
                f"{depth} layers",
            )
            if skip == "identity":
                axes[0, place].plot(
                    runs[0]["train.steps"], PUBLISHED[depth], "D", color=colour, markersize=4
                )
        axes[0, place].set(
            title={"none": "plain", "identity": "residual"}[skip], xlabel="step", ylim=(0, 30)
        )
        axes[0, place].legend(loc="upper right")
    axes[0, 0].set_ylabel("error in % (dashed: training)")
    canvas.suptitle(
        "CIFAR-10: plain networks get worse with depth, residual ones better", fontsize=9
    )
    return canvas


def _errors(axes: Axes, runs: Sequence[Run], colour: object, label: str) -> None:
    """Of the runs that ended, where there are any; training errors as means over the steps between two tests."""
    ended = [run for run in runs if run.info["status"] == "done"]
    if not ended:
        return
    tested = np.flatnonzero(np.isfinite(ended[0].metrics["eval_accuracy"]))
    starts = np.r_[0, tested[:-1] + 1]
    test = np.stack([run.metrics["eval_accuracy"][tested] for run in ended])
    train = np.stack([np.add.reduceat(run.metrics["train_accuracy"], starts) for run in ended])
    train /= np.diff(np.r_[starts, len(ended[0].metrics["train_accuracy"])])
    band(axes, tested, 100 * (1 - test), color=colour, label=label)
    axes.plot(tested, 100 * (1 - train.mean(axis=0)), color=colour, linestyle="--", linewidth=0.9)  # type: ignore[arg-type]
