"""A final number against a setting: means and intervals over seeds."""

import itertools
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from research.records.runs import Run
from research.reporting.aggregation import (
    Averaged,
    Group,
    Summary,
    group_runs,
    left_out_in_words,
    summarize,
    usual_seeds,
    without_unmeasured,
)
from research.reporting.figures import CurveStyle
from research.reporting.layout import Layout, arm_titles, choose_layout, split_arms
from research.reporting.panels import plot_average, plot_error_bars, plot_theory, theory_handle
from research.reporting.plots import arrangement
from research.reporting.plots.arrangement import Drawing, PlotOptions, SeriesStyles
from research.reporting.quantities import (
    INITIAL_FACTOR,
    PREDICTED_FACTOR,
    Quantity,
    find_quantity,
    usual_quantity,
)
from research.reporting.varied_settings import (
    SEED,
    distinct_values,
    is_numeric,
    setting_text,
    short_name,
)

ARM_LABEL_WIDTH = 26  # letters in a line of the label of a vertical axis
DODGE = 0.12  # how far the series of named settings are apart, of the distance between names


@dataclass(frozen=True)
class Series:
    """One line of a panel.

    Attributes:
        style: how it looks.
        positions: where its points are on the horizontal axis [P].
        summaries: a mean for each point.
        predictions: what theory predicts for each point; NaN without a prediction.
    """

    style: CurveStyle
    positions: np.ndarray
    summaries: tuple[Summary, ...]
    predictions: np.ndarray

    @property
    def has_theory(self) -> bool:
        """Whether theory predicts a point."""
        return bool(np.any(np.isfinite(self.predictions)))

    @property
    def averaged(self) -> Averaged:
        """The means and their intervals [P]."""
        return Averaged(
            mean=np.array([summary.mean for summary in self.summaries]),
            low=np.array([summary.low for summary in self.summaries]),
            high=np.array([summary.high for summary in self.summaries]),
        )


def draw(runs: Sequence[Run], options: PlotOptions) -> Drawing:
    """Draws a final number against a setting.

    Args:
        runs: the runs.
        options: ``y`` is the number, ``x`` the setting, ``color`` and ``facet`` further settings.

    Raises:
        ValueError: there is no such number or setting, or the runs differ in none.
    """
    layout = choose_layout(runs, x=options.x, color=options.color, facet=options.facet)
    if not layout.x:
        raise ValueError(
            "the runs differ in no setting that could be the horizontal axis: "
            "--kind curves and --kind profile draw a single run"
        )
    is_free = not (options.x or options.y or options.color or options.facet)
    if is_free and layout.is_crowded(runs):
        arms = split_arms(runs)
        most = min(arrangement.MAX_PANELS, len(runs) // 2)  # an arm is more than single runs
        if 1 < len(arms) <= most:
            return _draw_arms(arms, options)
    quantity = find_quantity(options.y, runs) if options.y else usual_quantity(runs)
    drawn, layout = _leave_out_unmeasured(runs, layout, quantity, options)
    num_left_out = len(runs) - len(drawn)
    runs = drawn
    styles = SeriesStyles(runs, layout)
    facets = arrangement.facets_of(runs, layout.facet)
    lines = []
    for _, chosen in facets:
        lines.append(_make_series(chosen, layout, quantity, styles, runs))
    every_line = list(itertools.chain.from_iterable(lines))
    has_theory = any(series.has_theory for series in every_line)
    legend = styles.handles(has_markers=True)
    if has_theory:
        legend.append(theory_handle())
    figure, axes = arrangement.make_panels(len(facets), legend=legend)
    is_log = _is_log(every_line, options)
    titles = [title for title, _ in facets]
    for panel, title, of_panel in zip(axes, titles, lines, strict=True):
        for series in of_panel:
            _draw_series(panel, series, is_connected=_is_connected(runs, layout.x))
        panel.set_title(title)
        _scale(panel, runs, layout, quantity, is_log, options)
        _mark_without_mean(panel, of_panel)
    arrangement.share_limits(axes)
    for row_start in arrangement.row_starts(axes):
        row_start.set_ylabel(quantity.heading(runs))
    arrangement.add_legend(figure, legend)
    notes = arrangement.begin_notes(runs)
    notes += _notes(every_line, is_log=quantity.is_factor) + styles.notes
    if num_left_out:
        notes.append(f"not drawn: {num_left_out} without a value")
    arrangement.add_notes(figure, notes)
    return Drawing(figure, f"line_{quantity.name}_{arrangement.file_word(layout.x)}", notes)


def _leave_out_unmeasured(
    runs: Sequence[Run],
    layout: Layout,
    quantity: Quantity,
    options: PlotOptions,
) -> tuple[Sequence[Run], Layout]:
    """The runs that are drawn and their layout, without those that did not measure the number.

    All runs are drawn where the others would leave no horizontal axis.
    """
    measured = without_unmeasured(runs, [layout.x, *layout.series, *layout.facets], quantity)
    if not measured or len(measured) == len(runs):
        return runs, layout
    of_measured = choose_layout(measured, x=options.x, color=options.color, facet=options.facet)
    if not of_measured.x:
        return runs, layout
    return measured, of_measured


def _draw_arms(arms: Sequence[Sequence[Run]], options: PlotOptions) -> Drawing:
    """A panel for each arm of a sweep, with its own number, axis and legend."""
    figure, axes = arrangement.make_panels(len(arms))
    every_line = []
    for panel, arm, title in zip(axes, arms, arm_titles(arms), strict=True):
        whole = choose_layout(arm)
        layout = Layout(whole.x or SEED, (*whole.colors, *whole.facets))
        quantity = usual_quantity(arm)
        styles = SeriesStyles(arm, layout)
        lines = _make_series(arm, layout, quantity, styles, arm)
        for series in lines:
            _draw_series(panel, series, is_connected=_is_connected(arm, layout.x))
        _scale(panel, arm, layout, quantity, _is_log(lines, options), options)
        _mark_without_mean(panel, lines)
        heading = textwrap.fill(quantity.heading(arm), ARM_LABEL_WIDTH)
        panel.set(title=title, ylabel=heading)
        arrangement.add_panel_legend(panel, styles.handles(has_markers=True))
        every_line += lines
    every_run = [run for arm in arms for run in arm]
    notes = arrangement.begin_notes(every_run)
    notes += ["a panel for each arm of the sweep", *_notes(every_line)]
    arrangement.add_notes(figure, notes)
    return Drawing(figure, "line_arms", notes)


def _make_series(
    runs: Sequence[Run],
    layout: Layout,
    quantity: Quantity,
    styles: SeriesStyles,
    every_run: Sequence[Run],
) -> list[Series]:
    """The lines of one panel."""
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
                predictions=_predictions(of_series, quantity),
            )
        )
    return series


def _predictions(groups: Iterable[Group], quantity: Quantity) -> np.ndarray:
    """The predicted factor of each group, where the measured one is drawn."""
    predictions = []
    for group in groups:
        prediction = np.nan
        if quantity.name == INITIAL_FACTOR.name:
            prediction = summarize(group, PREDICTED_FACTOR).mean
        predictions.append(prediction)
    return np.array(predictions)


def _is_connected(runs: Sequence[Run], path: str) -> bool:
    """Whether a line joins the values of a setting: those of numbers but for the seed."""
    return path != SEED and is_numeric(runs, path)


def _draw_series(
    axes: Axes,
    series: Series,
    *,
    is_connected: bool,
) -> None:
    style = series.style
    averaged = series.averaged
    if is_connected:
        plot_average(
            axes,
            series.positions,
            averaged,
            color=style.color,
            linestyle=style.linestyle,
        )
    else:
        plot_error_bars(
            axes,
            series.positions,
            averaged,
            fmt="none",
            color=style.color,
            linewidth=1,
            capsize=2,
        )
    for position, summary in zip(series.positions, series.summaries, strict=True):
        is_whole = summary.is_complete
        axes.plot(
            position,
            summary.mean,
            marker=style.marker,
            markersize=4,
            color=style.color,
            markerfacecolor=style.color if is_whole else "white",
            linestyle="none",
        )
    if series.has_theory:
        plot_theory(axes, series.positions, series.predictions)


def _mark_without_mean(axes: Axes, lines: Sequence[Series]) -> None:
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


def _is_log(lines: Sequence[Series], options: PlotOptions) -> bool:
    asked = options.log_axis("y")
    if asked is not None:
        return asked
    means = []
    for series in lines:
        means += [summary.mean for summary in series.summaries]
    return arrangement.is_logarithmic(means)


def _scale(
    axes: Axes,
    runs: Sequence[Run],
    layout: Layout,
    quantity: Quantity,
    is_log: bool,
    options: PlotOptions,
) -> None:
    """Scales both axes of a panel and names the horizontal one."""
    values = distinct_values(runs, layout.x)
    if is_numeric(runs, layout.x):
        numbers = [value for value in values if value is not None]
        arrangement.scale_setting_axis(axes, layout.x, numbers, is_log=options.log_axis("x"))
    else:
        arrangement.name_ticks(axes, [setting_text(value) for value in values])
        axes.set_xlabel(short_name(layout.x))
    if is_log:
        axes.set_yscale("log")
    elif quantity.name.endswith("accuracy"):
        low, _ = axes.get_ylim()
        axes.set_ylim(min(max(low, 0.0), 0.9), 1.02)


def _notes(lines: Sequence[Series], *, is_log: bool = False) -> list[str]:
    summaries = []
    for series in lines:
        summaries += series.summaries
    counts = [summary.count for summary in summaries]
    notes = [arrangement.count_in_words(counts, is_log=is_log)]
    left_out = left_out_in_words(summaries)
    if left_out:
        notes.append(f"not averaged: {left_out}")
    if any(summary.count and not summary.is_complete for summary in summaries):
        notes.append("open markers: not all runs ended well")
    if any(not summary.count for summary in summaries):
        notes.append("×: no run has a value")
    return notes
