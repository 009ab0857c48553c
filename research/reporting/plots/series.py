"""The lines of a panel that shows a number of runs against a setting."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from research.config.options import Schedule
from research.records.runs import Run
from research.reporting.aggregation import (
    Averaged,
    Group,
    Summary,
    group_runs,
    left_out_in_words,
    summarize,
    usual_seeds,
)
from research.reporting.figures import CurveStyle
from research.reporting.layout import Layout, varies_at_random
from research.reporting.panels import plot_average, plot_error_bars, plot_theory
from research.reporting.plots import arrangement
from research.reporting.plots.arrangement import PlotOptions, SeriesStyles
from research.reporting.quantities import INITIAL_FACTOR, PREDICTED_FACTOR, Better, Quantity
from research.reporting.varied_settings import (
    SEED,
    distinct_values,
    is_numeric,
    setting_text,
    setting_value,
    short_name,
)
from research.theory.update_rules import adam_edge, momentum_edge

DODGE = 0.12  # how far the series of named settings are apart, of the distance between names
DASH = 0.25  # half the length of a prediction, of the distance between names
WIDEST = 0.5  # of the possible range: a wider interval says less than the single seeds
TOP = 1.02  # of an axis of accuracies
HIGHEST_START = 0.9  # of an axis of accuracies
MIDDLE = 0.5  # an axis of accuracies that reaches below it begins at 0


@dataclass(frozen=True)
class Theory:
    """What theory predicts for a quantity.

    Attributes:
        label: what it is called in a legend.
        predict: the value of one run; None where theory has none.
    """

    label: str
    predict: Callable[[Run], float | None]


def _constant_rate(run: Run) -> float | None:
    """The learning rate of all steps; None where it changes, so that there is no single edge."""
    if setting_value(run, "optimizer.schedule") not in (None, Schedule.constant.name):
        return None
    return setting_value(run, "optimizer.learning_rate")


def _edge_of_descent(run: Run) -> float | None:
    kind = setting_value(run, "optimizer.kind")
    rate = _constant_rate(run)
    momentum = setting_value(run, "optimizer.momentum") if kind == "momentum" else 0.0
    if kind not in ("gd", "sgd", "momentum") or not rate:
        return None
    return momentum_edge(rate, momentum)


def _edge_of_adam(run: Run) -> float | None:
    kind = setting_value(run, "optimizer.kind")
    rate = _constant_rate(run)
    if kind not in ("adam", "adamw") or not rate:
        return None
    return adam_edge(rate, setting_value(run, "optimizer.beta1"))


THEORIES: Mapping[str, Theory] = {
    INITIAL_FACTOR.name: Theory("mean-field theory", PREDICTED_FACTOR.value),
    "sharpness": Theory("edge of stability", _edge_of_descent),
    "preconditioned_sharpness": Theory("edge of stability", _edge_of_adam),
}


@dataclass(frozen=True)
class Series:
    """One line of a panel.

    Attributes:
        style: how it looks.
        positions: where its points are on the horizontal axis [P].
        summaries: a mean for each point.
        predictions: what theory predicts for each point; NaN without a prediction.
        limits: the least and the greatest value that is possible.
        has_names: whether names are on the horizontal axis, at 0, 1, 2 …
    """

    style: CurveStyle
    positions: np.ndarray
    summaries: tuple[Summary, ...]
    predictions: np.ndarray
    limits: tuple[float, float]
    has_names: bool = False

    @property
    def has_theory(self) -> bool:
        """Whether theory predicts a point."""
        return bool(np.any(np.isfinite(self.predictions)))

    @property
    def averaged(self) -> Averaged:
        """The means and their intervals [P], within what is possible.

        There is no interval where the single values are drawn instead.
        """
        has_band = ~self.are_single
        low = np.array([summary.low for summary in self.summaries])
        high = np.array([summary.high for summary in self.summaries])
        low = np.clip(low, *self.limits)
        high = np.clip(high, *self.limits)
        return Averaged(
            mean=np.array([summary.mean for summary in self.summaries]),
            low=np.where(has_band, low, np.nan),
            high=np.where(has_band, high, np.nan),
        )

    @property
    def are_single(self) -> np.ndarray:
        """Whether the values of a point are drawn instead of their interval [P].

        They are where the interval is wide, or where errors without a largest value are exactly 0.
        """
        least, greatest = self.limits
        widest = WIDEST * (greatest - least)
        are_single = []
        for summary in self.summaries:
            is_at_end = math.isinf(greatest) and min(summary.values, default=math.inf) <= least
            are_single.append(is_at_end or summary.high - summary.low > widest)
        return np.array(are_single)


def make_series(
    runs: Sequence[Run],
    layout: Layout,
    quantity: Quantity,
    styles: SeriesStyles,
    every_run: Sequence[Run],
) -> list[Series]:
    """The lines of one panel.

    Args:
        runs: those of the panel.
        layout: which setting is where.
        quantity: what is drawn.
        styles: the colours and markers.
        every_run: the runs of all panels.
    """
    groups = group_runs(runs, [layout.x, *layout.series])
    every_group = group_runs(every_run, [layout.x, *layout.series, *layout.facets])
    usual = usual_seeds(every_group)
    by_series: dict[tuple[Any, ...], list[Group]] = {}
    for group in groups:
        key = tuple(group.settings[path] for path in layout.series)
        by_series.setdefault(key, []).append(group)
    names = distinct_values(every_run, layout.x)
    has_numbers = is_numeric(every_run, layout.x)
    series = []
    for number, of_series in enumerate(by_series.values()):
        if has_numbers:
            of_series = [group for group in of_series if group.settings[layout.x] is not None]
        positions = []
        for group in of_series:
            value = group.settings[layout.x]
            position = value if has_numbers else names.index(value)
            positions.append(float(position))
        shift = 0.0 if has_numbers else DODGE * (number - (len(by_series) - 1) / 2)
        if not of_series:
            continue
        series.append(
            Series(
                style=styles.of(of_series[0].settings),
                positions=np.array(positions) + shift,
                summaries=tuple(summarize(group, quantity, usual) for group in of_series),
                predictions=predict_number(of_series, quantity.name),
                limits=quantity.limits,
                has_names=not has_numbers,
            )
        )
    return series


def predict_number(groups: Iterable[Group], name: str) -> np.ndarray:
    """What theory predicts of a number for each group, [groups]; NaN without a prediction."""
    predictions = []
    for group in groups:
        values = []
        if name in THEORIES:
            theory = THEORIES[name]
            values = [theory.predict(run) for run in group.runs]
        known = [value for value in values if value is not None]
        predictions.append(float(np.mean(known)) if known else np.nan)
    return np.array(predictions)


def meanings_of(quantities: Iterable[Quantity]) -> list[str]:
    """What the numbers of a figure mean that users asked for, each once."""
    notes = []
    for quantity in quantities:
        if quantity.meaning:
            notes.append(f"{quantity.label}: {quantity.meaning}")
    return list(dict.fromkeys(notes))


def theory_note(lines: Iterable[Series], quantity: Quantity) -> str:
    """What the dashed lines are; empty where there are none."""
    if not any(series.has_theory for series in lines):
        return ""
    return f"dashed: {THEORIES[quantity.name].label}"


def average_on_log(
    quantity: Quantity,
    lines: Iterable[Series],
    options: PlotOptions,
) -> Quantity:
    """The quantity whose mean is the geometric one, if it is a loss on a logarithmic axis.

    The interval of an arithmetic mean reaches down to 0 there, and fills the panel.

    Args:
        quantity: what is drawn.
        lines: the lines of a panel, with arithmetic means.
        options: what the user asked for.
    """
    is_loss = quantity.better is Better.LOWER
    if is_loss and is_logarithmic(lines, options):
        return replace(quantity, is_factor=True)
    return quantity


def is_logarithmic(lines: Iterable[Series], options: PlotOptions) -> bool:
    """Whether the vertical axis of some lines is logarithmic."""
    asked = options.log_axis("y")
    return arrangement.is_logarithmic(means_of(lines)) if asked is None else asked


def means_of(lines: Iterable[Series]) -> list[float]:
    """All means of some lines."""
    means = []
    for series in lines:
        means += [summary.mean for summary in series.summaries]
    return means


def joins_points(runs: Sequence[Run], layout: Layout) -> bool:
    """Whether lines join the values of the setting on the horizontal axis.

    They do for numbers but for the seed, unless two of them are almost the same, or the runs of a
    line differ in more than this setting, as those of a random design do.
    """
    path = layout.x
    if path == SEED or not is_numeric(runs, path) or varies_at_random(runs, layout):
        return False
    values = [value for value in distinct_values(runs, path) if value is not None]
    is_log = arrangement.is_geometric(values)
    return len(arrangement.without_near(values, is_log)) == len(values)


def draw_series(
    axes: Axes,
    series: Series,
    *,
    is_connected: bool,
) -> None:
    """Draws means and their intervals, single values where the interval is too wide, and theory.

    Args:
        axes: where to draw.
        series: what is drawn.
        is_connected: whether a line joins the means, with a band for the intervals.
    """
    style = series.style
    averaged = series.averaged
    has_bar = np.isfinite(averaged.low)
    if is_connected:
        plot_average(
            axes,
            series.positions,
            averaged,
            color=style.color,
            linestyle=style.linestyle,
        )
        has_bar &= _are_alone(has_bar)
    if np.any(has_bar) or not is_connected:
        bars = Averaged(averaged.mean[has_bar], averaged.low[has_bar], averaged.high[has_bar])
        plot_error_bars(
            axes,
            series.positions[has_bar],
            bars,
            fmt="none",
            color=style.color,
            linewidth=1,
            capsize=2,
        )
    _draw_points(axes, series)
    if not series.has_theory:
        return
    if not series.has_names:
        plot_theory(axes, series.positions, series.predictions)
    else:
        for position, prediction in zip(series.positions, series.predictions, strict=True):
            ends = [position - DASH, position + DASH]
            plot_theory(axes, ends, [prediction, prediction])


def _are_alone(has_interval: np.ndarray) -> np.ndarray:
    """Whether neither neighbour of a point has an interval, so that no band can be seen [P]."""
    padded = np.concatenate([[False], has_interval, [False]])
    return ~(padded[:-2] | padded[2:])


def _draw_points(axes: Axes, series: Series) -> None:
    style = series.style
    columns = zip(series.positions, series.summaries, series.are_single, strict=True)
    for position, summary, is_single in columns:
        axes.plot(
            position,
            summary.mean,
            marker=style.marker,
            markersize=4,
            color=style.color,
            markerfacecolor=style.color if summary.is_complete else "white",
            linestyle="none",
        )
        if is_single:
            axes.plot(
                [position] * summary.count,
                summary.values,
                marker="_",
                markersize=5,
                color=style.color,
                linestyle="none",
            )


def mark_without_mean(axes: Axes, lines: Sequence[Series]) -> None:
    """Crosses at the foot of a panel, where no run has a value."""
    for number, series in enumerate(lines):
        for position, summary in zip(series.positions, series.summaries, strict=True):
            if not summary.count:
                axes.plot(
                    position,
                    0.03 + 0.05 * number,
                    "x",
                    color=series.style.color,
                    markersize=4,
                    transform=axes.get_xaxis_transform(),
                    clip_on=False,
                )


def scale_axes(
    axes: Axes,
    runs: Sequence[Run],
    path: str,
    lines: Sequence[Series],
    quantity: Quantity,
    options: PlotOptions,
) -> None:
    """Scales both axes of a panel and names the horizontal one.

    Args:
        axes: the panel.
        runs: the runs of all panels with the same horizontal axis.
        path: the setting on it.
        lines: those of all panels with the same vertical axis.
        quantity: what is drawn.
        options: what a user asked for.
    """
    values = distinct_values(runs, path)
    if is_numeric(runs, path):
        numbers = [value for value in values if value is not None]
        arrangement.scale_setting_axis(axes, path, numbers, is_log=options.log_axis("x"))
    else:
        arrangement.name_ticks(axes, [setting_text(value) for value in values])
        axes.set_xlabel(short_name(path))
    scale_numbers(axes, lines, quantity, options)


def scale_numbers(
    axes: Axes,
    lines: Sequence[Series],
    quantity: Quantity,
    options: PlotOptions,
) -> None:
    """Scales the vertical axis of a panel; see ``scale_axes``.

    Args:
        axes: the panel.
        lines: what is drawn in it.
        quantity: what the lines show.
        options: what the user asked for.
    """
    if is_logarithmic(lines, options):
        axes.set_yscale("log")
    elif math.isfinite(quantity.limits[1]):
        low, _ = axes.get_ylim()
        has_cross = any(not summary.count for series in lines for summary in series.summaries)
        start = 0.0 if low < MIDDLE or has_cross else min(low, HIGHEST_START)
        axes.set_ylim(start, TOP)
        axes.yaxis.set_major_locator(_UpToOne())


class _UpToOne(MaxNLocator):
    """Ticks at round numbers up to 1, the greatest possible accuracy."""

    def __init__(self):
        super().__init__(nbins="auto", steps=[1, 2, 5, 10])

    def tick_values(self, vmin: float, vmax: float) -> Any:
        ticks = np.asarray(super().tick_values(vmin, vmax))
        return ticks[ticks < TOP]


def notes_on(
    lines: Iterable[Series],
    *,
    has_lines: bool,
    is_geometric: bool = False,
) -> list[str]:
    """What the points and the lines are, and what is not averaged.

    Args:
        lines: those of all panels.
        has_lines: whether lines join the means, with a band for the intervals.
        is_geometric: whether the means are geometric.
    """
    summaries = []
    has_single = False
    for series in lines:
        summaries += series.summaries
        has_single = has_single or bool(np.any(series.are_single))
    counts = [summary.count for summary in summaries]
    notes = [
        arrangement.count_in_words(
            counts, is_log=is_geometric, interval="shaded" if has_lines else "bars"
        )
    ]
    if has_single:
        notes.append("short bars: single seeds, where the interval says little")
    left_out = left_out_in_words(summaries)
    if left_out:
        notes.append(f"not averaged: {left_out}")
    if any(summary.count and not summary.is_complete for summary in summaries):
        notes.append("open markers: not all runs ended well")
    if any(not summary.count for summary in summaries):
        notes.append("×: no run has a value")
    return notes
