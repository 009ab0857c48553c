"""Loss and sharpness over training for several step sizes, and the edge 2/η that each of them has."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from research.records.queries import where
from research.records.runs import Run
from research.reporting.figures import band, depth_colours, new_figure

RATES = (0.05, 0.1, 0.2, 0.4)


def figure(runs: Sequence[Run]) -> Figure:
    """Left the loss, right the sharpness; a line a step size but for what diverged, the range over seeds as a shade."""
    canvas, axes = new_figure(7.0, 2.9, 1, 2)
    loss, sharpness = axes[0]
    for rate, colour in zip(RATES, depth_colours(len(RATES)), strict=True):
        group = [
            run
            for run in where(runs, {"optimizer.learning_rate": rate})
            if run.info["status"] == "done"
        ]
        if not group:
            continue
        steps = group[0].inspections["step"].astype(int)
        losses = np.stack([run.metrics["train_loss"][steps] for run in group])
        band(loss, steps, losses, color=colour, label=f"$\\eta={rate:g}$")
        band(
            sharpness,
            steps,
            np.stack([run.inspections["sharpness"] for run in group]),
            color=colour,
        )
        sharpness.axhline(2 / rate, color=colour, linestyle="--", linewidth=0.9)
        sharpness.text(
            4000,
            2 / rate * 1.03,
            f"$2/{rate:g}$",
            color=colour,
            fontsize=6.5,
            ha="right",
            va="bottom",
        )
    loss.set(yscale="log", xlabel="step of gradient descent", ylabel="training loss")
    sharpness.set(
        yscale="log",
        xlabel="step of gradient descent",
        ylabel="sharpness\n(greatest Hessian eigenvalue)",
    )
    sharpness.set_yticks((5, 10, 20, 40), ("5", "10", "20", "40"))
    sharpness.set_yticks([], minor=True)
    loss.legend(loc="upper right")
    canvas.suptitle(
        "Where 2/η is within reach, the sharpness settles on it while the loss goes on falling",
        fontsize=9,
    )
    return canvas
