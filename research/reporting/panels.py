"""Panels that ``fathom plot`` and the experiments draw; each function draws on given axes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgb
from matplotlib.lines import Line2D

from research.diagnosis.depth import log_profile
from research.gauges.table import SIGNAL_GRAD
from research.records.queries import metric_curves, setting_values, tabulate_by_seed
from research.records.runs import Run
from research.reporting.aggregation import Averaged, average_with_range
from research.reporting.figures import PALETTE

THEORY: dict[str, Any] = {"color": "black", "linestyle": "--"}
DARKER = 0.5  # times the lightness of the curve that a prediction belongs to
LEAST_CELL = 0.14  # inches that a column of a map needs for its numbers


def plot_average(
    axes: Axes,
    x: Any,
    averaged: Averaged,
    *,
    label: str | None = None,
    **style: Any,
) -> None:
    """Draws a mean as a line, and its range or interval as a shaded band where it is known.

    Args:
        axes: where to draw.
        x: positions [P].
        averaged: the mean, and the ends of the band [P].
        label: the entry in the legend.
        **style: passed to ``axes.plot``.
    """
    (line,) = axes.plot(x, averaged.mean, label=label, **style)
    if np.any(np.isfinite(averaged.low)):
        axes.fill_between(
            x,
            averaged.low,
            averaged.high,
            color=line.get_color(),
            alpha=0.2,
            linewidth=0,
        )


def band(
    axes: Axes,
    x: Any,
    curves: np.ndarray,
    *,
    label: str | None = None,
    **style: Any,
) -> None:
    """Draws the mean of several curves as a line and their range as a shaded band.

    Args:
        axes: where to draw.
        x: positions [P].
        curves: one curve for each seed [seeds, P].
        label: the entry in the legend.
        **style: passed to ``axes.plot``.
    """
    plot_average(axes, x, average_with_range(curves), label=label, **style)


def plot_profile(
    axes: Axes,
    averaged: Averaged,
    *,
    factor: float | None = None,
    predicted: np.ndarray | None = None,
    label: str | None = None,
    **style: Any,
) -> None:
    """A gauge over the layers, with what theory predicts from the last layer down.

    A prediction for each layer is dashed in a darker shade of the curve's colour, so that the
    predictions of several curves can be distinguished; a constant factor is dashed in black.

    Args:
        axes: where to draw.
        averaged: the gauge at each layer [N+1].
        factor: what theory predicts for the value at a layer over that at the next one.
        predicted: what theory predicts for the value at each layer over that at the last one [N+1].
        label: the entry in the legend.
        **style: passed to ``axes.plot``.
    """
    layers = np.arange(len(averaged.mean))
    plot_average(axes, layers, averaged, label=label, **style)
    last = averaged.mean[-1]
    if factor is not None:
        distance = layers[::-1]
        plot_theory(axes, layers, last * factor**distance)
    if predicted is not None:
        shade = darker(axes.lines[-1].get_color())
        plot_theory(axes, layers, last * predicted, color=shade)


def darker(colour: Any) -> tuple[float, ...]:
    """A darker shade of a colour, which can be seen on the colour itself."""
    return tuple(DARKER * part for part in to_rgb(colour))


def relative_gradient(runs: Sequence[Run], step: int = 0) -> Averaged:
    """The squared gradient ‖∂L/∂h‖² of the signals relative to the last layer's [N+1].

    It is the geometric mean over runs, with their range.

    Args:
        runs: one run for each seed.
        step: the position of the step among those that were measured.
    """
    signals = []
    for run in runs:
        history = run.profiles[SIGNAL_GRAD.name]
        signals.append(history[step])
    logs = log_profile(np.stack(signals))
    return average_with_range(logs).exponential()


def plot_metric(
    axes: Axes,
    runs: Sequence[Run],
    name: str,
    *,
    window: int = 1,
    label: str | None = None,
    **style: Any,
) -> None:
    """A metric over training steps: the mean over seeds as a line, their range as a shade.

    Args:
        axes: where to draw.
        runs: one run for each seed.
        name: a column of the metrics, such as ``train_loss``.
        window: how many steps one point is the mean of.
        label: the entry in the legend.
        **style: passed to ``axes.plot``.
    """
    curves = metric_curves(runs, name, window)
    num_points = curves.shape[1]
    steps = np.arange(num_points) * window + (window - 1) / 2
    band(axes, steps, curves, label=label, **style)


def plot_ended(
    axes: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    color: Any,
) -> None:
    """A metric of one run that diverged or ended early: a thin line with × at its end.

    Args:
        axes: where to draw.
        steps: the steps up to its end [S].
        values: the metric at these steps [S].
        color: the colour of the line.
    """
    axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.7)
    axes.plot(steps[-1], values[-1], "x", color=color, markersize=5)


def plot_over_setting(
    axes: Axes,
    runs: Sequence[Run],
    path: str,
    measure: Callable[[Run], float],
    *,
    label: str | None = None,
    **style: Any,
) -> None:
    """A number of each run over a setting: the mean over seeds as a line, their range as a shade.

    Args:
        axes: where to draw.
        runs: one run for each seed and each value of the setting.
        path: the setting on the horizontal axis.
        measure: returns the number of one run.
        label: the entry in the legend.
        **style: passed to ``axes.plot``.
    """
    values = setting_values(runs, path)
    columns = tabulate_by_seed(runs, path, values, measure)
    band(axes, values, columns, label=label, **style)


def plot_error_bars(
    axes: Axes,
    x: Any,
    averaged: Averaged,
    **style: Any,
) -> None:
    """Means with bars for their range or interval.

    Args:
        axes: where to draw.
        x: positions [P].
        averaged: the means, and the ends of the bars [P]; no bar where they are unknown.
        **style: passed to ``axes.errorbar``.
    """
    below = averaged.mean - averaged.low
    above = averaged.high - averaged.mean
    lengths = np.nan_to_num([below, above])
    axes.errorbar(x, averaged.mean, lengths, **style)


@dataclasses.dataclass(frozen=True)
class CellAxis:
    """Where the cells of a map lie along one axis.

    Attributes:
        centres: the value in the middle of each cell, ascending [K].
        is_log: whether the axis is logarithmic.
    """

    centres: np.ndarray
    is_log: bool = False

    def edges(self) -> np.ndarray:
        """The edges of the cells, halfway between their centres [K+1]."""
        if self.is_log:
            return np.exp(_edges_between(np.log(self.centres)))
        return _edges_between(np.asarray(self.centres, float))

    def narrowest(self) -> float:
        """The width of the narrowest cell, as a share of the axis."""
        edges = self.edges()
        if self.is_log:
            edges = np.log(edges)
        widths = np.diff(edges)
        return float(widths.min() / widths.sum())


def _edges_between(centres: np.ndarray) -> np.ndarray:
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middles = (centres[1:] + centres[:-1]) / 2
    first = 2 * centres[0] - middles[0]
    last = 2 * centres[-1] - middles[-1]
    return np.concatenate([[first], middles, [last]])


def plot_map(
    axes: Axes,
    x: CellAxis,
    y: CellAxis,
    values: np.ndarray,
    *,
    norm: Normalize,
    colour_map: str = "viridis",
) -> Any:
    """A number over two settings: colours, and the numbers themselves where there is room.

    Args:
        axes: where to draw.
        x: the cells along the horizontal axis, X of them.
        y: the cells along the vertical axis, Y of them.
        values: the numbers [Y, X]; NaN leaves a cell grey.
        norm: which number has which colour.
        colour_map: the name of matplotlib's colour map.

    Returns:
        The image, for a colour bar.
    """
    image = axes.pcolormesh(
        x.edges(),
        y.edges(),
        np.ma.masked_invalid(values),
        norm=norm,
        cmap=colour_map,
        rasterized=True,
    )
    axes.set_facecolor("0.85")
    axes.grid(False)
    axes.set(
        xscale="log" if x.is_log else "linear",
        yscale="log" if y.is_log else "linear",
        xlim=x.edges()[[0, -1]],
        ylim=y.edges()[[0, -1]],
    )
    width = axes.get_window_extent().width / axes.figure.dpi
    if x.narrowest() * width >= LEAST_CELL:
        _write_numbers(axes, x, y, values, image)
    return image


def _write_numbers(
    axes: Axes,
    x: CellAxis,
    y: CellAxis,
    values: np.ndarray,
    image: Any,
) -> None:
    """Writes each number into its cell, on its colour, so that no line crosses it."""
    for row, column in np.argwhere(np.isfinite(values)):
        value = float(values[row, column])
        colour = image.cmap(image.norm(value))
        axes.text(
            float(x.centres[column]),
            float(y.centres[row]),
            short_number(value),
            fontsize=5.5,
            ha="center",
            va="center",
            color=text_colour(colour),
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.6},
            zorder=4,
        )


def short_number(value: float) -> str:
    """``.98`` and ``1.2``: a number for a small cell."""
    if 0 <= value <= 1:
        text = f"{value:.2f}"
        return text if text == "1.00" else text.removeprefix("0")
    return f"{value:.2g}"


def text_colour(colour: Any) -> str:
    """Black or white, which can be read on a colour."""
    red, green, blue = to_rgb(colour)
    lightness = 0.3 * red + 0.59 * green + 0.11 * blue
    return "black" if lightness > 0.5 else "white"


def plot_theory_on_map(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
) -> None:
    """Draws a prediction over a map, dashed in black and white to be seen on any colour.

    Args:
        axes: the panel.
        x: the horizontal positions [K].
        y: the predicted values [K].
    """
    axes.plot(x, y, color="black", linewidth=1.3)
    axes.plot(x, y, color="white", linestyle="--", linewidth=1.2)


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
    color: Any = THEORY["color"],
) -> None:
    """Draws a prediction as a dashed line.

    Args:
        axes: the panel.
        x: the horizontal positions [K]; empty to add only a legend entry.
        y: the predicted values [K].
        label: the name in the legend; None for no entry.
        linewidth: in points.
        color: that of the measured values that it is compared with.
    """
    axes.plot(x, y, linewidth=linewidth, label=label, **{**THEORY, "color": color})


def theory_handle(label: str = "mean-field theory") -> Line2D:
    """The entry of predictions in a legend."""
    return Line2D([], [], linewidth=0.9, label=label, **THEORY)


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
