"""Fitted functions by width, what is possible by hand, and what a network without bends can do."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.runs import Run
from research.reporting.aggregation import average_with_range
from research.reporting.figures import PALETTE, CurveStyle, depth_colours, new_figure
from research.reporting.panels import plot_error_bars, plot_theory
from research.reproduce.experiments import load_module

CODE = load_module("universal_approximation", "claims")
WIDTHS = (4, 32, 256)
STYLES = {
    "sine": CurveStyle("sine", PALETTE[0], "o"),
    "polynomial": CurveStyle("polynomial", PALETTE[2], "s"),
    "step": CurveStyle("step", PALETTE[1], "^"),
}
TITLES = {"sine": "A sine", "step": "A step", "polynomial": "A polynomial"}


def figure(runs: Sequence[Run]) -> Figure:
    """Above three curves; below a surface's error, errors by width, and straight lines."""
    canvas, axes = new_figure(7.6, 4.8, 2, 3)
    for panel, function in zip(axes[0], TITLES, strict=True):
        _plot_fits(panel, runs, function)
    _plot_surface(axes[1, 0], runs)
    _plot_errors(axes[1, 1], runs)
    _plot_lines(axes[1, 2], runs)
    return canvas


def _plot_fits(
    axes: Axes,
    runs: Sequence[Run],
    function: str,
) -> None:
    shown = (4, 256)
    for width, colour in zip(shown, (PALETTE[1], PALETTE[0]), strict=True):
        run = CODE.select_fits(runs, function, width)[0]
        inputs, outputs = CODE.fitted(run)
        if width == shown[0]:
            target = CODE.true_values(run, inputs)
            axes.plot(inputs, target, color="0.75", linewidth=4, label="the function")
        axes.plot(inputs, outputs, color=colour, label=f"{width} units")
    axes.set(ylim=(-1.3, 2.1), xlabel="input", ylabel="output", title=TITLES[function])
    if function == "sine":
        axes.legend(loc="upper left", fontsize=6.5, ncols=2, columnspacing=1, handlelength=1.5)


def _plot_surface(axes: Axes, runs: Sequence[Run]) -> None:
    run = CODE.select_fits(runs, "surface", 256)[0]
    inputs, outputs = CODE.fitted(run)
    side = round(len(inputs) ** 0.5)
    first = inputs[:, 0].reshape(side, side)
    second = inputs[:, 1].reshape(side, side)
    axes.pcolormesh(
        first,
        second,
        outputs.reshape(side, side),
        cmap="RdBu_r",
        vmin=-1,
        vmax=1,
        shading="gouraud",
        rasterized=True,
    )
    target = CODE.true_values(run, inputs).reshape(side, side)
    lines = axes.contour(first, second, target, levels=[-0.6, 0.6], colors="black")
    lines.set_linewidth(0.8)
    axes.clabel(lines, fontsize=6)
    axes.set_aspect("equal")
    axes.set(
        xlabel="first input",
        ylabel="second input",
        title="A surface (lines: the function;\ncolours: 256 units)",
    )
    axes.grid(False)


def _plot_errors(axes: Axes, runs: Sequence[Run]) -> None:
    for function, style in STYLES.items():
        columns = [CODE.greatest_errors(runs, function, width) for width in WIDTHS]
        averaged = average_with_range(np.stack(columns, axis=1))
        plot_error_bars(axes, WIDTHS, averaged, markersize=3, **style.keywords)
    knots = np.array(CODE.KNOTS)
    by_hand = [CODE.error_by_hand(count) for count in CODE.KNOTS]
    plot_theory(axes, knots, by_hand, label="sine, set by hand")
    axes.set(
        xscale="log",
        yscale="log",
        xticks=WIDTHS,
        xticklabels=[str(width) for width in WIDTHS],
        xlabel="units",
        ylabel="greatest error",
        title="More units, smaller error;\nno network follows a jump",
    )
    axes.minorticks_off()
    axes.legend(loc="lower left", fontsize=6)


def _plot_lines(axes: Axes, runs: Sequence[Run]) -> None:
    group = CODE.select_linear(runs)
    depths = sorted({run["model.depth"] for run in group})
    inputs, _ = CODE.fitted(group[0])
    axes.plot(inputs, CODE.true_values(group[0], inputs), color="0.75", linewidth=4)
    widths = (4.5, 2.5, 1.0)
    for depth, colour, width in zip(depths, depth_colours(len(depths)), widths, strict=True):
        run = next(run for run in group if run["model.depth"] == depth)
        _, outputs = CODE.fitted(run)
        axes.plot(inputs, outputs, color=colour, linewidth=width, label=f"{depth}")
    axes.set(
        ylim=(-1.3, 1.7),
        xlabel="input",
        ylabel="output",
        title="Without a bend any depth\nis a straight line",
    )
    axes.legend(
        loc="upper center",
        fontsize=6.5,
        ncols=3,
        title="layers",
        title_fontsize=6.5,
        borderpad=0,
    )
