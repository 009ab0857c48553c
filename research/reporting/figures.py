"""The style of all figures, and panels that several figures use."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from research.records.queries import metric_curves
from research.records.runs import Run

# Okabe & Ito 2008: distinguishable with any colour vision. Lightness alternates, for grey prints.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.3,
    "savefig.dpi": 200,
    "svg.hashsalt": "fathom",
    "pdf.fonttype": 42,
}
# Metadata of a figure file by its format. Without dates, the same runs give the same bytes.
FIGURE_FORMATS = {
    "png": None,
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


def style() -> AbstractContextManager:
    """The context in which a figure is drawn and saved; both read matplotlib's settings."""
    return mpl.rc_context(STYLE)


def new_figure(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
) -> tuple[Figure, np.ndarray]:
    """Makes a figure; call it within ``style()``.

    Args:
        width: in inches.
        height: in inches.
        rows: number of rows of panels.
        columns: number of columns of panels.

    Returns:
        The figure and its axes [rows, columns].
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(
    figure: Figure,
    directory: Path,
    name: str,
    formats: Sequence[str] = tuple(FIGURE_FORMATS),
) -> None:
    """Saves a figure as ``NAME.png``, ``.svg`` and ``.pdf``; call it within ``style()``.

    Args:
        figure: the figure.
        directory: the folder of the files.
        name: their name without an ending.
        formats: those of ``FIGURE_FORMATS`` that are written.
    """
    # The panels are placed once; else it is done for each file, which takes longer.
    figure.draw_without_rendering()
    figure.set_layout_engine(None)
    for suffix in formats:
        figure.savefig(directory / f"{name}.{suffix}", metadata=FIGURE_FORMATS[suffix])


def depth_colours(count: int) -> list[tuple[float, ...]]:
    """Colours for ``count`` depths or steps in order, from light to dark, legible in grey."""
    positions = np.linspace(0.12, 0.95, count)
    colours = mpl.colormaps["viridis_r"](positions)
    return [tuple(colour) for colour in colours]


def band(
    axes: Axes,
    x: Sequence[float] | np.ndarray,
    curves: np.ndarray,
    *,
    label: str | None = None,
    **style: object,
) -> None:
    """Draws the mean of several curves as a line and their range as a shaded band.

    Args:
        axes: where to draw.
        x: positions [len(x)].
        curves: one curve for each seed [seeds, len(x)].
        label: the entry in the legend.
        **style: passed to ``axes.plot``.
    """
    mean = np.nanmean(curves, axis=0)
    (line,) = axes.plot(x, mean, label=label, **style)  # type: ignore[arg-type]
    if len(curves) > 1:
        low = np.nanmin(curves, axis=0)
        high = np.nanmax(curves, axis=0)
        colour = line.get_color()
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


@dataclasses.dataclass(frozen=True)
class CurveStyle:
    """How one group of runs looks in every panel of a figure."""

    label: str
    color: Any
    marker: str | None = None
    linestyle: str = "-"


def plot_metric(
    axes: Axes,
    runs: Sequence[Run],
    name: str,
    *,
    window: int,
    label: str,
    **style: object,
) -> None:
    """A metric over training steps: the mean over seeds as a line, their range as a shade.

    Args:
        axes: where to draw.
        runs: one run for each seed.
        name: a column of the metrics, such as ``train_loss``.
        window: how many steps one point is the mean of.
        label: the name in the legend.
        style: settings of the line.
    """
    curves = metric_curves(runs, name, window)
    steps = np.arange(curves.shape[1]) * window + window / 2
    band(axes, steps, curves, label=label, **style)


def range_bars(values: Sequence[float] | np.ndarray) -> list[list[float]]:
    """The range of ``values`` around their mean, as ``yerr`` of one bar or one point."""
    mean = float(np.mean(values))
    return [[mean - min(values)], [max(values) - mean]]


def plot_theory(
    axes: Axes,
    x: Any,
    y: Any,
    *,
    label: str | None = None,
    linewidth: float = 0.9,
) -> None:
    """Draws a prediction as a dashed black line; empty ``x`` and ``y`` add only a legend entry."""
    axes.plot(x, y, color="black", linestyle="--", linewidth=linewidth, label=label)


def set_ticks(axis: Axis, ticks: Sequence[float]) -> None:
    """Shows exactly these ticks on ``axes.xaxis`` or ``axes.yaxis``, as plain numbers."""
    axis.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def plot_measured_and_published(
    axes: Axes,
    measured: Mapping[str, Sequence[float]],
    published: Mapping[str, float],
) -> None:
    """Compares measured numbers with published ones, in one row for each name from top to bottom.

    Args:
        axes: where to draw.
        measured: the values of all seeds by name, drawn as their mean and their range.
        published: the number in the paper by name, drawn as a diamond; names may be missing.
    """
    measured_label = "measured, range over seeds"
    published_label = "the paper"
    for row, (name, values) in enumerate(measured.items()):
        mean = sum(values) / len(values)
        low_and_high = [min(values), max(values)]
        axes.plot(low_and_high, [row, row], color=PALETTE[0], alpha=0.5)
        axes.plot(mean, row, "o", color=PALETTE[0], label=measured_label)
        measured_label = ""  # the legend names each kind of marker once
        if name in published:
            axes.plot(
                published[name],
                row,
                "D",
                markerfacecolor="none",
                color=PALETTE[1],
                label=published_label,
            )
            published_label = ""
    axes.set_yticks(range(len(measured)), list(measured))
    axes.invert_yaxis()
    axes.legend(loc="best")


def decades(axes: Axes) -> None:
    """Labels the vertical axis, which shows log₁₀ values, with powers of ten."""
    axes.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")


def exponent_map(
    axes: Axes,
    exponents: np.ndarray,
    histogram: np.ndarray,
    limits: Mapping[str, float],
) -> Any:
    """Draws how the nonzero elements of each layer are distributed over powers of two.

    Args:
        axes: where to draw: layers on the horizontal axis, exponents on the vertical one.
        exponents: the exponents e [K].
        histogram: the share of elements between 2^e and 2^(e+1) in each layer [N, K].
        limits: exponents by name, drawn as labelled lines.

    Returns:
        The image, for a colour bar.
    """
    nonempty = np.flatnonzero(histogram.max(axis=0) > 0)
    shown = slice(nonempty[0], nonempty[-1] + 1)
    totals = histogram.sum(axis=1, keepdims=True)
    shares = histogram[:, shown] / totals
    layer_edges = np.arange(len(histogram) + 1) - 0.5
    last_edge = exponents[shown][-1] + 1
    image = axes.pcolormesh(
        layer_edges,
        np.append(exponents[shown], last_edge),
        np.ma.masked_less_equal(shares.T, 0),
        cmap="Blues",
        rasterized=True,
    )
    for (label, limit), colour in zip(limits.items(), PALETTE[1:], strict=False):
        axes.axhline(limit, color=colour, linestyle="--", linewidth=1)
        axes.annotate(
            label,
            (0.02, limit),
            xycoords=("axes fraction", "data"),
            color=colour,
            fontsize=6.5,
            xytext=(0, 2),
            textcoords="offset points",
            ha="left",
        )
    axes.grid(False)
    return image
