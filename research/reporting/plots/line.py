"""A final number against a setting: means and intervals over seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from research.records.runs import Run
from research.reporting.aggregation import (
    Group,
    Summary,
    group_runs,
    left_out_in_words,
    summarize,
    usual_seeds,
)
from research.reporting.figures import CurveStyle, plot_theory
from research.reporting.layout import Layout, choose_layout
from research.reporting.plots import panels
from research.reporting.plots.panels import Drawing, PlotOptions, SeriesStyles
from research.reporting.quantities import (
    INITIAL_FACTOR,
    PREDICTED_FACTOR,
    Quantity,
    find_quantity,
    usual_quantity,
)
from research.reporting.varied_settings import (
    distinct_values,
    is_numeric,
    setting_text,
    short_name,
)

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


def draw(runs: Sequence[Run], options: PlotOptions) -> Drawing:
    """Draws a final number against a setting.

    Args:
        runs: the runs.
        options: ``y`` is the number, ``x`` the setting, ``color`` and ``facet`` further settings.

    Raises:
        ValueError: there is no such number or setting, or the runs differ in none.
    """
    quantity = find_quantity(options.y, runs) if options.y else usual_quantity(runs)
    layout = choose_layout(runs, x=options.x, color=options.color, facet=options.facet)
    if not layout.x:
        raise ValueError(
            "the runs differ in no setting that could be the horizontal axis: "
            "--kind curves and --kind profile draw a single run"
        )
    styles = SeriesStyles(runs, layout)
    facets = panels.facets_of(runs, layout.facet)
    lines = [_make_series(chosen, layout, quantity, styles, runs) for _, chosen in facets]
    every_line = [series for of_panel in lines for series in of_panel]
    has_theory = any(np.any(np.isfinite(series.predictions)) for series in every_line)
    legend = styles.handles(has_markers=True)
    if has_theory:
        legend.append(panels.theory_handle())
    figure, axes = panels.make_panels(len(facets), legend=legend)
    is_log = _is_log(every_line, options)
    for panel, (title, _), of_panel in zip(axes, facets, lines, strict=True):
        for series in of_panel:
            _draw_series(panel, series, is_connected=is_numeric(runs, layout.x))
        panel.set_title(title)
        _scale(panel, runs, layout, quantity, is_log, options)
    _mark_without_mean(axes, lines)
    panels.share_limits(axes)
    axes[0].set_ylabel(quantity.heading(runs))
    for row_start in panels.row_starts(axes)[1:]:
        row_start.set_ylabel(quantity.heading(runs))
    panels.add_legend(figure, legend)
    notes = _notes(every_line, quantity) + styles.notes
    panels.add_notes(figure, notes)
    return Drawing(figure, f"line_{quantity.name}_{panels.file_word(layout.x)}", notes)


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


def _draw_series(
    axes: Axes,
    series: Series,
    *,
    is_connected: bool,
) -> None:
    style = series.style
    means = np.array([summary.mean for summary in series.summaries])
    low = np.array([summary.low for summary in series.summaries])
    high = np.array([summary.high for summary in series.summaries])
    linestyle = style.linestyle if is_connected else "none"
    axes.plot(series.positions, means, color=style.color, linestyle=linestyle)
    if is_connected:
        panels.shade(axes, series.positions, low, high, style.color)
    else:
        errors = np.nan_to_num([means - low, high - means])
        axes.errorbar(
            series.positions, means, errors, fmt="none", color=style.color, linewidth=1, capsize=2
        )
    for position, mean, summary in zip(series.positions, means, series.summaries, strict=True):
        is_whole = summary.is_complete
        axes.plot(
            position,
            mean,
            marker=style.marker,
            markersize=4,
            color=style.color,
            markerfacecolor=style.color if is_whole else "white",
            linestyle="none",
        )
    if np.any(np.isfinite(series.predictions)):
        plot_theory(axes, series.positions, series.predictions)


def _mark_without_mean(axes: Sequence[Axes], lines: Sequence[Sequence[Series]]) -> None:
    """Crosses at the foot of the panels, where no run has a value."""
    for panel, of_panel in zip(axes, lines, strict=True):
        for number, series in enumerate(of_panel):
            for position, summary in zip(series.positions, series.summaries, strict=True):
                if not summary.count:
                    panel.plot(
                        position,
                        0.03 + 0.05 * number,
                        "x",
                        color=series.style.color,
                        markersize=4,
                        transform=panel.get_xaxis_transform(),
                        clip_on=False,
                    )


def _is_log(lines: Sequence[Series], options: PlotOptions) -> bool:
    asked = options.log_axis("y")
    if asked is not None:
        return asked
    means = []
    for series in lines:
        means += [summary.mean for summary in series.summaries]
    return panels.is_logarithmic(means)


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
        panels.scale_setting_axis(axes, layout.x, numbers, is_log=options.log_axis("x"))
    else:
        panels.name_ticks(axes, [setting_text(value) for value in values])
        axes.set_xlabel(short_name(layout.x))
    if is_log:
        axes.set_yscale("log")
    elif quantity.name.endswith("accuracy"):
        low, _ = axes.get_ylim()
        axes.set_ylim(min(max(low, 0.0), 0.9), 1.02)


def _notes(lines: Sequence[Series], quantity: Quantity) -> list[str]:
    summaries = []
    for series in lines:
        summaries += series.summaries
    counts = [summary.count for summary in summaries]
    notes = [panels.count_in_words(counts, is_log=quantity.is_factor)]
    left_out = left_out_in_words(summaries)
    if left_out:
        notes.append(f"not averaged: {left_out}")
    if any(summary.count and not summary.is_complete for summary in summaries):
        notes.append("open markers: not all runs ended well")
    if any(not summary.count for summary in summaries):
        notes.append("×: no run has a value")
    return notes
