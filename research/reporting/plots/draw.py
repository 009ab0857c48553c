"""Draws a figure of recorded runs: the kind that is asked for, or the one that suits them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm

from research.config.wording import pluralize
from research.records.runs import Run
from research.reporting.aggregation import leave_out_clashing
from research.reporting.figures import label_short_log_axes, style
from research.reporting.gauge_histories import inspected_gauge, recorded_gauges
from research.reporting.layout import parts_of
from research.reporting.plots import arrangement, curves, heatmap, line, phase, profile
from research.reporting.plots.arrangement import Drawing, PlotOptions
from research.reporting.quantities import BY_NAME, has_several_steps, has_started, recorded_numbers
from research.reporting.summary_table import check_choice
from research.reporting.varied_settings import (
    distinct_values,
    independent_settings,
    is_numeric,
    is_recording,
    values_of,
    varied_settings,
)


@dataclass(frozen=True)
class FigureKind:
    """A kind of figure, and which options of ``fathom plot`` act on it.

    Attributes:
        draw: draws runs.
        ignored: the options that it has no use for.
        log_axes: the axes that ``--log`` makes logarithmic; of a map, y stands for the colours.
        is_map: whether numbers are colours.
    """

    draw: Callable[[Sequence[Run], PlotOptions], Drawing]
    ignored: tuple[str, ...]
    log_axes: str
    is_map: bool = False


KINDS: Mapping[str, FigureKind] = {
    "line": FigureKind(line.draw, ("steps",), "xy"),
    "curves": FigureKind(curves.draw, ("x", "steps"), "xy"),
    "profile": FigureKind(profile.draw, ("x",), "y"),
    "heatmap": FigureKind(heatmap.draw, ("x", "steps"), "y", is_map=True),
    "phase": FigureKind(phase.draw, ("steps",), "xy", is_map=True),
}
LOG_AXES = ("x", "y", "xy", "none")
FEW_SERIES = 12  # curves that one figure has room for
LEAST_GRID = 4  # values of each axis from which on a phase diagram is drawn unasked
LEAST_FILLED = 0.8  # of the cells of a phase diagram


def draw_runs(runs: Sequence[Run], options: PlotOptions) -> Drawing:
    """Draws a figure of recorded runs. Those that have no step are left out and counted.

    Args:
        runs: at least one.
        options: what is asked for.

    Raises:
        ValueError: the kind, an axis or a name is not known, or does not suit the runs; or all runs
            clash, see ``leave_out_clashing``.
    """
    started = [run for run in runs if has_started(run)]
    num_left_out = len(runs) - len(started) if started else 0
    averageable = leave_out_clashing(started or runs)
    averageable.check_any()
    runs = averageable.runs
    kind = options.kind or choose_kind(runs, options)
    if kind == "profile" and options == PlotOptions():
        options = dataclasses.replace(options, y=inspected_gauge(runs))
    kind = check_choice("--kind", kind, list(KINDS))
    if options.log:
        log = check_choice("--log", options.log, LOG_AXES)
        options = dataclasses.replace(options, log=log)
    _check_effects(kind, options)
    with style():
        drawing = KINDS[kind].draw(runs, options)
        _check_log_axes(kind, drawing, options)
        for axes in drawing.figure.axes:
            label_short_log_axes(axes)
        if num_left_out:
            left_out = pluralize(num_left_out, "run")
            drawing.notes.append(f"left out: {left_out} without a step")
        drawing.notes.extend(averageable.notes)
        if num_left_out or averageable.clashing:
            arrangement.add_notes(drawing.figure, drawing.notes)
    return drawing


def _check_effects(kind: str, options: PlotOptions) -> None:
    """Raises ValueError for an option that the kind of figure has no use for."""
    for name in KINDS[kind].ignored:
        value = getattr(options, name)
        if value:
            kinds = [other for other in KINDS if name not in KINDS[other].ignored]
            raise ValueError(_describe_ignored(f"--{name}", kind, kinds, value))
    for axis in _asked_log_axes(options):
        if axis not in KINDS[kind].log_axes:
            kinds = [other for other in KINDS if axis in KINDS[other].log_axes]
            raise ValueError(_describe_ignored(f"--log {axis}", kind, kinds, options.log))
    if kind == "heatmap" and options.y and options.color:
        raise ValueError(
            f"--y and --color both name the gauge of a heatmap, got {options.y} and {options.color}"
        )


def _describe_ignored(
    option: str,
    kind: str,
    kinds: Sequence[str],
    value: str,
) -> str:
    return f"{option} has no effect on --kind {kind}, only on {' and '.join(kinds)}, got {value}"


def _asked_log_axes(options: PlotOptions) -> list[str]:
    """The axes that the user wants to be logarithmic."""
    return [axis for axis in "xy" if options.log_axis(axis)]


def _check_log_axes(
    kind: str,
    drawing: Drawing,
    options: PlotOptions,
) -> None:
    """Raises ValueError for an axis that stays linear, as that of names or of accuracies."""
    for axis in _asked_log_axes(options):
        is_of_colours = KINDS[kind].is_map and axis == "y"
        labels = []
        scales = []
        for axes in drawing.figure.axes:
            maps = [image for image in axes.collections if isinstance(image, QuadMesh)]
            if is_of_colours:
                scales += ["log" for image in maps if isinstance(image.norm, LogNorm)]
            else:
                scales.append(getattr(axes, f"get_{axis}scale")())
            labels.append(getattr(axes, f"get_{axis}label")())
        if "log" not in scales:
            shown = labels[-1] if is_of_colours else labels[0]
            raise ValueError(
                f"--log {axis} has no effect, because {shown or 'that axis'} stays linear"
            )


def choose_kind(runs: Sequence[Run], options: PlotOptions) -> str:
    """The kind of figure that suits the runs and what is asked of it."""
    if options.steps:
        return "profile"
    if options.y:
        return _kind_of_y(runs, options)
    if options.x:
        return "line"
    numbers = []
    settings = varied_settings(runs)
    for path in settings:
        if is_numeric(runs, path) and not is_recording(path):
            numbers.append(path)
    if _is_grid(runs, numbers):
        return "phase"
    for part in parts_of(runs):
        if any(len(distinct_values(part, path)) > 2 for path in numbers):
            return "line"
    if len(runs) == 1:
        return "profile" if recorded_gauges(runs) else "curves"
    series = {values_of(run, settings) for run in runs}
    if settings and len(series) > FEW_SERIES:
        return "line"
    has_trained = any(has_several_steps(run) for run in runs)
    if inspected_gauge(runs):
        return "profile"
    if has_trained or not recorded_gauges(runs):
        return "curves"
    return "profile"


def _kind_of_y(runs: Sequence[Run], options: PlotOptions) -> str:
    """What is drawn decides: a final number, a gauge, or a metric over steps."""
    name = options.y.replace("-", "_")
    if name in BY_NAME:
        return "line"
    if name in recorded_gauges(runs) and not options.x:
        return "profile"
    if name in recorded_numbers(runs):
        return "line" if options.x else "curves"
    return "line"


def _is_grid(runs: Sequence[Run], numbers: Sequence[str]) -> bool:
    """Whether two settings of numbers make a well filled grid in each panel."""
    ranked = sorted(numbers, key=lambda path: -len(distinct_values(runs, path)))
    if len(ranked) < 2:
        return False
    first, second = ranked[:2]
    others = independent_settings(runs, varied_settings(runs), [first, second])
    num_panels = len({values_of(run, others) for run in runs})
    num_values = [len(distinct_values(runs, path)) for path in (first, second)]
    if min(num_values) < LEAST_GRID:
        return False
    filled = set()
    for run in runs:
        values = values_of(run, [first, second])
        if None not in values:
            filled.add((values, values_of(run, others)))
    return len(filled) >= LEAST_FILLED * num_values[0] * num_values[1] * num_panels
