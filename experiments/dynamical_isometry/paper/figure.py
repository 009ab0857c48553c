"""Training and test accuracy of plain tanh convolutional networks of thousands of layers over training."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from research.records.queries import where
from research.records.runs import Run
from research.reporting.figures import band, depth_colours, new_figure

DEPTHS = (1250, 5000, 10000)


def figure(runs: Sequence[Run]) -> Figure:
    """A line a depth; training solid, in means over the steps between two tests, test dashed."""
    canvas, axes = new_figure(4.5, 3.0)
    for depth, colour in zip(DEPTHS, depth_colours(len(DEPTHS)), strict=True):
        ended = [run for run in where(runs, {"model.depth": depth}) if run.info["status"] == "done"]
        if not ended:
            continue
        tested = np.flatnonzero(np.isfinite(ended[0].metrics["eval_accuracy"]))
        epochs = ended[0].metrics["epoch"][tested]
        starts = np.r_[0, tested[:-1] + 1]
        train = np.stack([np.add.reduceat(run.metrics["train_accuracy"], starts) for run in ended])
        train /= np.diff(np.r_[starts, len(ended[0].metrics["train_accuracy"])])
        band(axes[0, 0], epochs, train, color=colour, label=f"{depth:,} layers")
        test = np.mean([run.metrics["eval_accuracy"][tested] for run in ended], axis=0)
        axes[0, 0].plot(epochs, test, color=colour, linestyle="--", linewidth=0.9)
    axes[0, 0].axhline(0.9, color="0.5", linestyle=":", linewidth=0.8)
    axes[0, 0].set(xlabel="epoch", ylabel="accuracy (dashed: test)", ylim=(0, 1))
    axes[0, 0].legend(loc="lower right")
    canvas.suptitle("CIFAR-10: orthogonal weights train thousands of plain layers", fontsize=9)
    return canvas
