"""‖g‖/‖w‖ over training, in front of a norm and behind it, and where theory puts it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import where, window_means
from research.records.runs import Run
from research.reporting.figures import PALETTE, CurveStyle, new_figure
from research.reporting.panels import band, plot_theory
from research.theory.update_rules import equilibrium_ratio

WINDOW = 20  # steps that one point is the mean of
STYLES = {  # by learning rate and decay factor
    (0.1, 1.0): CurveStyle("$\\gamma=0.1$", PALETTE[0]),
    (0.03, 1.0): CurveStyle("$\\gamma=0.03$", PALETTE[2]),
    (0.1, 0.3): CurveStyle("$\\gamma=0.1$, then $0.03$", PALETTE[1]),
}


def figure(runs: Sequence[Run]) -> Figure:
    """Left weights that a norm follows, right weights that it precedes; the mean over layers."""
    canvas, axes = new_figure(7.0, 2.9, 1, 2)
    before_norm = axes[0, 0]
    after_norm = axes[0, 1]
    after_norm.sharey(before_norm)
    _draw(before_norm, where(runs, {"norm.placement": "branch"}))
    _draw(after_norm, where(runs, {"norm.placement": "pre"}))
    before_norm.set(
        ylabel="$\\Vert g\\Vert\\,/\\,\\Vert w\\Vert$",
        title="a norm follows: $h+N(W\\varphi(h))$",
    )
    after_norm.set(title="no norm follows: $h+W\\varphi(N(h))$")
    before_norm.legend(loc="lower right", title="learning rate", title_fontsize=8)
    canvas.suptitle(
        "In front of a norm, weight decay fixes the gradient: $\\sqrt{2\\lambda/\\gamma}$ times "
        "the weights",
        fontsize=9,
    )
    return canvas


def _draw(axes: Axes, runs: Sequence[Run]) -> None:
    for (rate, factor), style in STYLES.items():
        settings = {"optimizer.learning_rate": rate, "optimizer.decay_factor": factor}
        group = where(runs, settings)
        curves = np.stack([_mean_ratio(run) for run in group])
        steps = np.arange(curves.shape[1]) * WINDOW + WINDOW / 2
        band(axes, steps, curves, **style.keywords)
    _draw_theory(axes, runs[0])
    axes.set(yscale="log", xlabel="step of training")


def _mean_ratio(run: Run) -> np.ndarray:
    """‖g‖/‖w‖ in root mean squares over layers and over ``WINDOW`` steps."""
    gradients = np.mean(run.profiles["grad_norm"].astype(float) ** 2, axis=1)
    weights = np.mean(run.profiles["weight_norm"].astype(float) ** 2, axis=1)
    return np.sqrt(window_means(gradients, WINDOW) / window_means(weights, WINDOW))


def _draw_theory(axes: Axes, run: Run) -> None:
    decay = run["optimizer.weight_decay"]
    steps = np.array([0, run["train.steps"]])
    label = "$\\sqrt{2\\lambda/\\gamma}$"
    for rate in (0.1, 0.03):
        plot_theory(axes, steps, np.full(2, equilibrium_ratio(rate, decay)), label=label)
        label = None
