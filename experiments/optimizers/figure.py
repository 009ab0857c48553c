"""Paths into a valley, learning rates, optimizers by examples and by steps, noise by batch size."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.config.options import Adam, Momentum, Optimizer, OptimizerKind
from research.records.queries import where
from research.records.runs import Run
from research.reporting.figures import PALETTE, new_figure
from research.reporting.panels import band, plot_metric, plot_theory
from research.reproduce.experiments import load_module

CODE = load_module("optimizers", "claims")
VALLEY = np.array([1.0, 25.0])  # curvatures
START = np.array([-1.0, 0.42])
LEVELS = np.geomspace(0.004, 6, 12).tolist()
PATH_STEPS = 14


@dataclasses.dataclass(frozen=True)
class Rate:
    """How the runs with one learning rate look, and at which loss their label stands."""

    label: str
    colour: str
    label_height: float


RATES = {
    0.003: Rate("0.003: too small", PALETTE[4], 2.7),
    0.3: Rate("0.3: good", PALETTE[2], 0.12),
    3.0: Rate("3: too large", PALETTE[1], 70.0),
}
COLOURS = dict(zip([method.label for method in CODE.METHODS], PALETTE, strict=False))


def figure(runs: Sequence[Run]) -> Figure:
    """Above: a valley, its theory, learning rates. Below: digits by examples, by steps, noise."""
    canvas, axes = new_figure(7.6, 5.0, 2, 3)
    _plot_valley(axes[0, 0])
    _plot_iterations(axes[0, 1])
    _plot_rates(axes[0, 2], runs)
    _plot_methods(axes[1, 0], runs, by_examples=True)
    _plot_methods(axes[1, 1], runs, by_examples=False)
    _plot_variance(axes[1, 2], runs)
    return canvas


def _plot_valley(axes: Axes) -> None:
    x, y = np.meshgrid(np.linspace(-1.15, 0.45, 200), np.linspace(-0.5, 0.75, 200))
    heights = 0.5 * (VALLEY[0] * x**2 + VALLEY[1] * y**2)
    axes.contour(x, y, heights, levels=LEVELS, colors="0.8", linewidths=0.6)
    paths = {
        "gradient descent": (Optimizer(kind=OptimizerKind.sgd), 0.072, PALETTE[0], "o"),
        "momentum": (Momentum(momentum=0.6), 0.05, PALETTE[3], "s"),
        "Adam": (Adam(), 0.12, PALETTE[5], "^"),
    }
    for label, (option, rate, colour, marker) in paths.items():
        path = CODE.follow_quadratic(option, rate, VALLEY, START, PATH_STEPS)
        axes.plot(
            path[:, 0],
            path[:, 1],
            marker=marker,
            markersize=2.5,
            linewidth=1,
            color=colour,
            label=label,
        )
    axes.plot(0, 0, "*", color="black", markersize=8)
    axes.grid(False)
    axes.set(xticks=[], yticks=[], title="Three ways into a valley")
    axes.legend(loc="upper right", fontsize=6.5, frameon=True, framealpha=1, edgecolor="none")


def _plot_iterations(axes: Axes) -> None:
    conditions = np.geomspace(5, 2000, 50)
    roots = np.sqrt(conditions)
    plot_theory(axes, conditions, CODE.predict_iterations((conditions - 1) / (conditions + 1)))
    plot_theory(axes, conditions, CODE.predict_iterations((roots - 1) / (roots + 1)))
    for condition in CODE.CONDITION_NUMBERS:
        axes.plot(condition, CODE.count_descent(condition), "o", color=PALETTE[0])
        axes.plot(condition, CODE.count_heavy_ball(condition), "s", color=PALETTE[3])
    axes.text(80, 1700, "gradient descent", color=PALETTE[0], fontsize=7, ha="right")
    axes.text(300, 40, "momentum", color=PALETTE[3], fontsize=7)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="how narrow the valley is, κ",
        ylabel="steps to a millionth",
        title="Momentum needs √κ, not κ\n(dashed: theory)",
    )


def _plot_rates(axes: Axes, runs: Sequence[Run]) -> None:
    for rate, shown in RATES.items():
        group = where(runs, {"optimizer.kind": "gd", "optimizer.learning_rate": rate})
        plot_metric(axes, group, "train_loss", color=shown.colour)
        axes.text(100, shown.label_height, shown.label, color=shown.colour, fontsize=7)
    axes.set(
        yscale="log",
        ylim=(0.02, 200),
        xlabel="step",
        ylabel="loss",
        title="The learning rate decides\n(full batch, digits)",
    )


def _plot_methods(
    axes: Axes,
    runs: Sequence[Run],
    *,
    by_examples: bool,
) -> None:
    for method in CODE.METHODS:
        curves = []
        steps = np.zeros(0)
        for run in CODE.select_best(runs, method):
            steps, losses = CODE.loss_curve(run, method)
            curves.append(losses)
        x = steps * method.batch_size if by_examples else steps
        band(axes, x, np.stack(curves), color=COLOURS[method.label], label=method.label)
    what = "examples seen" if by_examples else "steps"
    title = "Counted in examples,\nthe full batch is slow"
    if not by_examples:
        title = "Counted in steps,\none example is slow"
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(64, 20_000) if by_examples else (1, 320),
        ylim=(0.002, 4),
        xlabel=what,
        ylabel="loss",
        title=title,
    )
    if by_examples:
        axes.legend(loc="lower left", fontsize=6)


def _plot_variance(axes: Axes, runs: Sequence[Run]) -> None:
    group = CODE.select_variance(runs)
    sizes = group[0].inspections["variance_batch_size"][0]
    curves = np.stack([run.inspections["gradient_variance"][0] for run in group])
    band(axes, sizes, curves, color=PALETTE[0], marker="o", markersize=3, label="measured")
    plot_theory(axes, sizes, np.mean(curves[:, 0]) / sizes, label="1/B")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="batch size B",
        ylabel="variance of the gradient",
        title="A batch twice as large\nhalves the noise",
    )
    axes.legend(loc="upper right")
