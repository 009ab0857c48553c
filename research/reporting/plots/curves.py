"""A metric over training steps: means and intervals over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes

from research.config.arguments import naming_option
from research.config.suggestions import format_suggestion
from research.gauges.table import DIAGNOSTICS
from research.records.runs import Run
from research.reporting.aggregation import (
    DIVERGED,
    Averaged,
    Group,
    average_with_interval,
    count_missing,
    group_runs,
)
from research.reporting.figures import CurveStyle
from research.reporting.layout import Layout, choose_layout, leave_out_untrained
from research.reporting.panels import darker, plot_average, plot_ended, plot_theory
from research.reporting.plots import arrangement
from research.reporting.plots.arrangement import Drawing, PlotOptions, SeriesStyles
from research.reporting.plots.series import THEORIES, predict_number
from research.reporting.quantities import (
    BY_NAME,
    label_of,
    meaning_of,
    numbers_over_steps,
    recorded_numbers,
    tables_of,
)

MAX_POINTS = 60  # of a curve; more steps are averaged in windows
FEW_POINTS = 12  # up to which each point of a curve has a marker
DEFAULT_METRIC = "train_loss"
HELD_OUT_METRIC = "eval_loss"
MAX_INSPECTED = 2  # numbers that have a panel without being asked for
LEAST_HELD_OUT = 5  # values over steps, from which on it has a panel of its own


@dataclass
class _Panel:
    """One panel: its title, metric and runs, and the curves that it shows."""

    title: str
    metric: str
    window: int
    groups: Sequence[Group]
    curves: list["MeanCurve"] = field(default_factory=list)
    is_log: bool = False

    @property
    def scale(self) -> str:
        """The metric whose vertical axis this one shares: losses have one, so they compare."""
        return DEFAULT_METRIC if self.metric == HELD_OUT_METRIC else self.metric


@dataclass(frozen=True)
class Curve:
    """A metric of one run where it has a value: its steps [S] and its values [S]."""

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class MeanCurve:
    """The mean over the runs of a group.

    Attributes:
        style: how it looks.
        steps: the middle of each window of steps [S].
        averaged: the mean over runs with its interval [S].
        count: how many runs are averaged.
        ended: the curves of runs that did not end well, which are not averaged.
    """

    style: CurveStyle
    steps: np.ndarray
    averaged: Averaged
    count: int
    ended: tuple[Curve, ...]


def draw(runs: Sequence[Run], options: PlotOptions) -> Drawing:
    """Draws a metric over training steps.

    Args:
        runs: the runs.
        options: ``y`` is the metric, ``color`` and ``facet`` settings.

    Raises:
        ValueError: no run recorded this metric, or there is no such setting.
    """
    with naming_option("--y" if options.y else ""):
        metric = find_metric(options.y or DEFAULT_METRIC, runs)
    every_run = runs
    runs = leave_out_untrained(runs, most=1.0)  # a single step is no curve
    others = [] if options.y or options.facet else _other_metrics(runs)
    layout = choose_layout(
        runs,
        color=options.color,
        facet=options.facet,
        has_x=False,
        has_styles=True,
        has_facets=not others,
    )
    styles = SeriesStyles(runs, layout)
    panels = _make_panels(runs, [metric, *others], layout)
    asked = options.log_axis("y")
    for panel in panels:
        panel.is_log = is_log_metric(runs, panel.scale) if asked is None else asked
        for group in panel.groups:
            curve_style = styles.of(group.settings)
            curve = average_curve(group, panel.metric, panel.window, curve_style, panel.is_log)
            panel.curves.append(curve)
    legend = styles.handles(has_markers=False)
    figure, axes = arrangement.make_panels(len(panels), legend=legend)
    for scale in dict.fromkeys(panel.scale for panel in panels):
        same_scale = [number for number, panel in enumerate(panels) if panel.scale == scale]
        shown = [panels[number] for number in same_scale]
        _draw_same_scale([axes[number] for number in same_scale], shown, options)
    has_several = len({panel.metric for panel in panels}) > 1
    named = axes if has_several else arrangement.row_starts(axes)
    for place, panel in zip(axes, panels, strict=True):
        if place in named:
            place.set_ylabel(metric_label(panel.metric, runs, panel.window))
    arrangement.add_legend(figure, legend)
    notes = arrangement.begin_notes(runs)
    of_metric = [panel for panel in panels if panel.metric == metric]
    curves = [curve for panel in of_metric for curve in panel.curves]
    is_log = of_metric[0].is_log
    notes += _notes([panel.groups for panel in of_metric], curves, is_log) + styles.notes
    notes += _inspected_notes(panels)
    if len(runs) < len(every_run):
        notes.append(arrangement.untrained_in_words(len(every_run) - len(runs)))
    arrangement.add_notes(figure, notes)
    return Drawing(figure, f"curves_{metric}", notes)


def _other_metrics(runs: Sequence[Run]) -> list[str]:
    """The metrics that get a panel next to the training loss without being asked for."""
    metrics = []
    counts = [len(read_curve(run, HELD_OUT_METRIC).steps) for run in runs]
    if 2 * sum(count >= LEAST_HELD_OUT for count in counts) > len(runs):
        metrics.append(HELD_OUT_METRIC)
    return metrics + [quantity.name for quantity in numbers_over_steps(runs)[:MAX_INSPECTED]]


def _make_panels(
    runs: Sequence[Run],
    metrics: Sequence[str],
    layout: Layout,
) -> list[_Panel]:
    """A panel for each metric and each value of the facet."""
    panels = []
    for metric in metrics:
        window = smoothing_window(runs, metric)
        for title, chosen in arrangement.facets_of(runs, layout.facet):
            groups = group_runs(chosen, layout.series)
            panels.append(_Panel(title, metric, window, groups))
    return panels


def _draw_same_scale(
    axes: Sequence[Axes],
    panels: Sequence[_Panel],
    options: PlotOptions,
) -> None:
    """Draws panels whose metrics have the same scale, with the same limits."""
    every_curve = [curve for panel in panels for curve in panel.curves]
    top = _top(every_curve, panels[0].is_log)
    for place, panel in zip(axes, panels, strict=True):
        for curve in panel.curves:
            draw_curve(place, curve, top)
        _draw_theory(place, panel)
        place.set_title(panel.title)
        place.set_xlabel("training step")
        if panel.is_log:
            place.set_yscale("log")
        if options.log_axis("x"):
            place.set_xscale("log")
    arrangement.share_limits(axes)


def _draw_theory(axes: Axes, panel: _Panel) -> None:
    """Draws what theory predicts for each curve over all its steps, in a darker shade."""
    if panel.metric not in THEORIES:
        return
    for group, curve in zip(panel.groups, panel.curves, strict=True):
        value = predict_number([group], panel.metric)[0]
        if np.isfinite(value) and len(curve.steps):
            ends = curve.steps[[0, -1]]
            plot_theory(axes, ends, [value, value], color=darker(curve.style.color))


def _inspected_notes(panels: Sequence[_Panel]) -> list[str]:
    """What inspected numbers mean, and what the dashed line of theory shows."""
    notes = []
    for panel in panels:
        for diagnostic in DIAGNOSTICS:
            if diagnostic.name == panel.metric:
                notes.append(f"{label_of(panel.metric)}: {meaning_of(diagnostic)}")
    theories = [THEORIES[panel.metric].label for panel in panels if _has_theory(panel)]
    notes += [f"level lines: {label}" for label in dict.fromkeys(theories)]
    return list(dict.fromkeys(notes))


def _has_theory(panel: _Panel) -> bool:
    """Whether theory predicts the metric of a panel for one of its groups."""
    if panel.metric not in THEORIES:
        return False
    return bool(np.any(np.isfinite(predict_number(panel.groups, panel.metric))))


def find_metric(name: str, runs: Sequence[Run]) -> str:
    """The metric with this name, which at least one run recorded.

    Raises:
        ValueError: no run did; the message has the nearest name.
    """
    name = name.replace("-", "_")
    known = recorded_numbers(runs)
    if name in known:
        return name
    if not known:
        raise ValueError("the runs recorded no metrics yet")
    hint = format_suggestion(name, known)
    raise ValueError(f"no run recorded the metric {name}{hint} (recorded: {', '.join(known)})")


def read_curve(run: Run, metric: str) -> Curve:
    """A metric of a run, where it has a value; empty if it was not recorded."""
    for columns in tables_of(run):
        if metric not in columns:
            continue
        values = columns[metric].astype(float)
        steps = columns.get("step", np.arange(len(values)))
        is_value = np.isfinite(values)
        return Curve(steps[is_value], values[is_value])
    return Curve(np.zeros(0), np.zeros(0))


def smoothing_window(runs: Sequence[Run], metric: str) -> int:
    """How many values one point is the mean of."""
    longest = 0
    for run in runs:
        curve = read_curve(run, metric)
        longest = max(longest, len(curve.steps))
    return max(1, longest // MAX_POINTS)


def _smooth(curve: Curve, window: int) -> Curve:
    """Means of consecutive values; the last one may cover fewer."""
    if window == 1 or not len(curve.steps):
        return curve
    starts = np.arange(0, len(curve.steps), window)
    ends = np.append(starts[1:], len(curve.steps))
    counts = ends - starts
    sum_of_steps = np.add.reduceat(curve.steps.astype(float), starts)
    sum_of_values = np.add.reduceat(curve.values, starts)
    return Curve(sum_of_steps / counts, sum_of_values / counts)


def average_curve(
    group: Group,
    metric: str,
    window: int,
    curve_style: CurveStyle,
    is_log: bool,
) -> MeanCurve:
    """The mean of a metric over the seeds of a group.

    Args:
        group: the runs; those that did not end well are kept apart.
        metric: the name of the metric.
        window: how many values one point is the mean of.
        curve_style: how it will look.
        is_log: whether the mean is the geometric one; only where all values are positive.
    """
    averaged = []
    ended = []
    for run in group.runs:
        curve = _smooth(read_curve(run, metric), window)
        if not len(curve.steps):
            continue
        if run.status == "done":
            averaged.append(curve)
        else:
            ended.append(curve)
    steps, values = _align(averaged)
    present = values[np.isfinite(values)]
    is_geometric = is_log and bool(np.all(present > 0))
    return MeanCurve(
        style=curve_style,
        steps=steps,
        averaged=average_with_interval(values, is_geometric=is_geometric),
        count=len(averaged),
        ended=tuple(ended),
    )


def _align(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """All steps of some curves [S] and their values there [M, S]; NaN where a curve has none."""
    every_step = [curve.steps for curve in curves]
    steps = np.unique(np.concatenate(every_step)) if curves else np.zeros(0)
    shape = (len(curves), len(steps))
    values = np.full(shape, np.nan)
    for row, curve in zip(values, curves, strict=True):
        places = np.searchsorted(steps, curve.steps)
        row[places] = curve.values
    return steps, values


def draw_curve(
    axes: Axes,
    curve: MeanCurve,
    top: float = np.inf,
) -> None:
    """Draws a mean with its interval, and the runs that did not end well as thin lines.

    Args:
        axes: where to draw.
        curve: what is drawn.
        top: where thin lines are cut off.
    """
    plot_average(
        axes,
        curve.steps,
        curve.averaged,
        color=curve.style.color,
        linestyle=curve.style.linestyle,
        marker="." if len(curve.steps) <= FEW_POINTS else None,
    )
    for ended in curve.ended:
        values = np.minimum(ended.values, top)
        plot_ended(axes, ended.steps, values, curve.style.color)


def _top(curves: Sequence[MeanCurve], is_log: bool) -> float:
    """A little above all means, where the lines of runs that diverged are cut off."""
    means = [curve.averaged.mean for curve in curves if len(curve.steps)]
    if not means:
        return np.inf
    numbers = np.concatenate(means)
    low = float(np.nanmin(numbers))
    high = float(np.nanmax(numbers))
    if is_log and low > 0:
        return high * (high / low) ** 0.1
    return high + 0.1 * (high - low)


def is_log_metric(runs: Sequence[Run], metric: str) -> bool:
    """Whether the values of a metric in runs that ended well are positive and span decades."""
    parts = []
    for run in runs:
        if run.status == "done":
            parts.append(read_curve(run, metric).values)
    return arrangement.is_logarithmic(np.concatenate(parts)) if parts else False


def metric_label(
    metric: str,
    runs: Sequence[Run],
    window: int,
) -> str:
    """The metric with its unit, and of how many steps or values a point is the mean.

    Args:
        metric: the name of the metric.
        runs: the runs, which decide the unit of some metrics.
        window: how many values a point is the mean of.
    """
    label = label_of(metric)
    parts = []
    if metric in BY_NAME and BY_NAME[metric].unit_in(runs):
        parts.append(BY_NAME[metric].unit_in(runs))
    if window > 1:
        what = "steps" if _has_every_step(runs, metric) else "values"
        parts.append(f"mean of {window} {what}")
    return f"{label} ({', '.join(parts)})" if parts else label


def _has_every_step(runs: Sequence[Run], metric: str) -> bool:
    """Whether the values of a metric are those of consecutive steps."""
    return all(np.all(np.diff(read_curve(run, metric).steps) == 1) for run in runs)


def _notes(
    groups: Sequence[Sequence[Group]],
    curves: Sequence[MeanCurve],
    is_log: bool,
) -> list[str]:
    notes = [arrangement.count_in_words((curve.count for curve in curves), is_log=is_log)]
    runs = []
    every_group = [group for of_panel in groups for group in of_panel]
    num_missing = count_missing(every_group)
    for group in every_group:
        runs += group.runs
    num_diverged = sum(run.status == DIVERGED for run in runs)
    num_others = sum(run.status not in ("done", DIVERGED) for run in runs)
    if num_diverged:
        notes.append(f"thin lines that end in ×: {num_diverged} diverged, not averaged")
    if num_others:
        notes.append(f"{num_others} failed or did not end (thin lines), not averaged")
    if num_missing:
        notes.append(arrangement.missing_in_words(num_missing))
    return notes
