"""The gain of mixed residual streams, the gradient over depth, and the loss."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import where
from research.records.runs import Run
from research.reporting.figures import PALETTE, CurveStyle, new_figure
from research.reporting.panels import band, plot_metric
from research.theory.streams import composite_gain

WINDOW = 5  # steps that one point is the mean of
STYLES = {  # by shortcut and noise
    ("hyper", 0.3): CurveStyle("free, $I+0.3\\,G$", PALETTE[1]),
    ("hyper", 0.0): CurveStyle("free, $I$", PALETTE[5], linestyle="-."),
    ("mhc", 0.3): CurveStyle("doubly stochastic, noise 0.3", PALETTE[0]),
    ("mhc", 0.0): CurveStyle("doubly stochastic", PALETTE[4], linestyle="-."),
}


def figure(runs: Sequence[Run]) -> Figure:
    """One line for each kind of mixing, shaded over seeds."""
    canvas, axes = new_figure(7.5, 2.8, 1, 3)
    gain, gradient, loss = axes[0]
    for (kind, noise), style in STYLES.items():
        group = where(runs, {"skip.kind": kind, "skip.mixing_noise": noise})
        _draw(gain, 1, np.stack([_gains(run) for run in group]), style)
        _draw(gradient, 0, np.stack([_gradients(run) for run in group]), style)
        plot_metric(loss, group, "train_loss", window=WINDOW, **style.keywords)
    gain.set(
        yscale="log",
        xlabel="layer",
        ylabel="greatest row sum of the\nproduct of mixings, initially",
    )
    gradient.set(
        yscale="log",
        xlabel="layer",
        ylabel="gradient relative to the last\nlayer's, initially",
    )
    loss.set(xlabel="step of training", ylabel="training loss", ylim=(0, 3.5))
    gradient.legend(loc="upper right")
    canvas.suptitle(
        "Several residual streams need mixing whose products stay bounded: doubly stochastic",
        fontsize=9,
    )
    return canvas


def _gains(run: Run) -> np.ndarray:
    """The gain of the first 1, 2, …, N matrices [N]."""
    matrices = run.inspections["stream_mixing"][0]
    return np.array([composite_gain(matrices[: n + 1]).forward for n in range(len(matrices))])


def _gradients(run: Run) -> np.ndarray:
    signal = run.profiles["signal_grad"][0].astype(float)
    return signal / signal[-1]


def _draw(
    axes: Axes,
    first: int,
    curves: np.ndarray,
    style: CurveStyle,
) -> None:
    x = np.arange(first, first + curves.shape[1])
    band(axes, x, curves, **style.keywords)
