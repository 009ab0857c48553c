"""Error, size and cost of numerical, symbolic and automatic derivatives."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.runs import Run
from research.reporting.figures import PALETTE, new_figure
from research.reproduce.experiments import load_module

CODE = load_module("differentiation", "claims")
FORWARD = PALETTE[1]
CENTRAL = PALETTE[3]
SYMBOLIC = PALETTE[2]
AUTOMATIC = PALETTE[0]


def figure(runs: Sequence[Run]) -> Figure:
    """Left the error over the step, in the middle the size over depth, right the cost."""
    canvas, axes = new_figure(7.6, 2.9, 1, 3)
    _plot_errors(axes[0, 0], runs)
    _plot_sizes(axes[0, 1], runs)
    _plot_costs(axes[0, 2])
    return canvas


def _plot_errors(axes: Axes, runs: Sequence[Run]) -> None:
    steps = CODE.steps_of(runs)
    for kind, colour in (("forward", FORWARD), ("central", CENTRAL)):
        errors = np.exp(np.mean(np.log(CODE.errors_of(runs, kind)), axis=0))
        axes.plot(steps, errors, "o-", markersize=2.5, color=colour)
    exact = float(np.mean([run.inspections["mode_error"][0] for run in runs]))
    axes.axhline(exact, color=AUTOMATIC, linewidth=1.5)
    axes.text(4e-15, 1e-9, "step too small:\nrounding", fontsize=6.5, color="0.4")
    axes.text(0.3, 4, "step too large:\ncurvature", fontsize=6.5, color="0.4", ha="right")
    axes.text(1e-7, 3e-4, "one-sided", fontsize=7, color=FORWARD, ha="center")
    axes.text(2e-6, 1.2e-12, "two-sided", fontsize=7, color=CENTRAL, va="bottom", ha="center")
    axes.text(1e-9, exact * 1.8, "automatic", fontsize=7, color=AUTOMATIC, ha="center")
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(1e-17, 1e2),
        xlabel="step of the difference",
        ylabel="relative error",
        title="Differences are never exact",
    )


def _plot_sizes(axes: Axes, runs: Sequence[Run]) -> None:
    depths = CODE.depths_of(runs)
    sizes = [CODE.sizes_of(depth) for depth in depths]
    written = [size.written for size in sizes]
    shared = [size.shared for size in sizes]
    automatic = [size.automatic for size in sizes]
    axes.plot(depths, written, "s-", markersize=3, color=SYMBOLIC)
    axes.plot(depths, shared, "s--", markersize=3, color=SYMBOLIC)
    axes.plot(depths, automatic, "o-", markersize=3, color=AUTOMATIC)
    middle = "center"
    axes.text(3.6, written[-1], "formula, written out", fontsize=7, color=SYMBOLIC, ha=middle)
    axes.text(5.5, 1000, "formula, shared parts once", fontsize=7, color=SYMBOLIC, ha=middle)
    axes.text(5.5, 550, "automatic (all at once)", fontsize=7, color=AUTOMATIC, ha=middle)
    axes.set(
        yscale="log",
        xlabel="layers",
        ylabel="terms or operations",
        ylim=(40, 1e6),
        title="A formula explodes with depth",
    )


def _plot_costs(axes: Axes) -> None:
    costs = CODE.measure_costs()
    parameters = [cost.parameters for cost in costs]
    differences = [cost.difference_time for cost in costs]
    forward = [cost.forward_time for cost in costs]
    reverse = [cost.reverse_time for cost in costs]
    axes.plot(parameters, differences, "^-", markersize=3, color=FORWARD)
    axes.plot(parameters, forward, "s-", markersize=3, color=CENTRAL)
    axes.plot(parameters, reverse, "o-", markersize=4, color=AUTOMATIC)
    axes.axhline(CODE.GREATEST_COST, color="black", linestyle="--", linewidth=0.9)
    axes.text(1e4, CODE.GREATEST_COST * 1.15, "theory: at most 5", fontsize=6.5, ha="right")
    axes.text(600, 6000, "differences", fontsize=7, color=FORWARD, ha="right")
    axes.text(1200, 400, "forward mode", fontsize=7, color=CENTRAL)
    axes.text(1e4, 0.55, "reverse mode", fontsize=7, color=AUTOMATIC, ha="right")
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(0.3, 5e4),
        xlabel="parameters",
        ylabel="cost of all derivatives\n(evaluations of the function)",
        title="Reverse mode: one price for all",
    )
