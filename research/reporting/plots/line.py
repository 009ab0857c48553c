"""A final number against a setting: means and intervals over seeds."""

import dataclasses
from collections.abc import Sequence

from matplotlib.axes import Axes

from research.records.runs import Run
from research.reporting.aggregation import without_unmeasured
from research.reporting.layout import (
    Layout,
    choose_layout,
    joins_arms,
    leave_out_untrained,
    split_arms,
)
from research.reporting.panels import theory_handle
from research.reporting.plots import arrangement
from research.reporting.plots.arms import draw_arms
from research.reporting.plots.arrangement import Drawing, PlotOptions, SeriesStyles
from research.reporting.plots.rows import MAX_ROWS, draw_rows
from research.reporting.plots.series import (
    THEORIES,
    Series,
    average_on_log,
    draw_series,
    joins_points,
    make_series,
    mark_without_mean,
    meanings_of,
    notes_on,
    scale_axes,
)
from research.reporting.quantities import (
    Quantity,
    find_quantity,
    has_several_steps,
    numbers_over_steps,
    usual_quantity,
)

MOST_LEFT_OUT = 0.25  # of the runs: those of a single step, or without the number
MAX_INSPECTED = 2  # numbers that have a panel without being asked for


@dataclasses.dataclass
class _Panel:
    """One panel: its title, runs and number, and the lines that it shows."""

    title: str
    runs: Sequence[Run]
    quantity: Quantity
    lines: list[Series] = dataclasses.field(default_factory=list)


def draw(runs: Sequence[Run], options: PlotOptions) -> Drawing:
    """Draws a final number against a setting.

    Args:
        runs: the runs.
        options: ``y`` is the number, ``x`` the setting, ``color`` and ``facet`` further settings.

    Raises:
        ValueError: there is no such number or setting, or the runs differ in none.
    """
    is_free = not (options.x or options.y or options.color or options.facet)
    every_run = runs
    if is_free:
        runs = leave_out_untrained(runs, MOST_LEFT_OUT)
    num_untrained = len(every_run) - len(runs)
    asked_for = find_quantity(options.y, runs, "--y") if options.y else None
    layout = choose_layout(runs, x=options.x, color=options.color, facet=options.facet)
    if not layout.x:
        raise ValueError(
            "the runs differ in no setting that could be the horizontal axis: "
            "--kind curves and --kind profile draw a single run"
        )
    quantity = asked_for or usual_quantity(runs)
    is_crowded = layout.is_crowded(runs)
    drawn, layout = _leave_out_unmeasured(runs, layout, quantity, options)
    if is_free and (is_crowded or _needs_arms(runs, drawn, layout, quantity)):
        arms = split_arms(every_run)
        most = min(arrangement.MAX_PANELS, len(runs) // 2)  # an arm is more than single runs
        if 1 < len(arms) <= most:
            return draw_arms(arms, options)
        if arrangement.MAX_PANELS < len(arms) <= MAX_ROWS:
            return draw_rows(arms)
    num_left_out = len(runs) - len(drawn)
    runs = drawn
    styles = SeriesStyles(runs, layout)
    panels = _make_panels(runs, layout, quantity, with_inspected=is_free)
    _fill(panels, runs, layout, styles, options)
    legend = styles.handles(has_markers=True)
    legend += [theory_handle(label) for label in _theory_labels(panels)]
    figure, axes = arrangement.make_panels(len(panels), legend=legend)
    for panel, shown in zip(axes, panels, strict=True):
        _draw_panel(panel, shown, runs, layout, options)
    _label(axes, panels)
    arrangement.add_legend(figure, legend)
    notes = arrangement.begin_notes(runs)
    every_line = [series for panel in panels for series in panel.lines]
    is_geometric = all(panel.quantity.is_factor for panel in panels)
    has_lines = joins_points(runs, layout)
    notes += notes_on(every_line, has_lines=has_lines, is_geometric=is_geometric) + styles.notes
    if num_left_out:
        notes.append(f"not drawn: {num_left_out} without a value")
    if num_untrained:
        notes.append(arrangement.untrained_in_words(num_untrained))
    notes += meanings_of(panel.quantity for panel in panels)
    arrangement.add_notes(figure, notes)
    name = f"line_{panels[0].quantity.name}_{arrangement.file_word(layout.x)}"
    return Drawing(figure, name, notes)


def _needs_arms(
    runs: Sequence[Run],
    drawn: Sequence[Run],
    layout: Layout,
    quantity: Quantity,
) -> bool:
    """Whether one axis cannot show all runs.

    Many of them have another number, a line would join what is not to be compared, or runs of a
    single step would have the same number as trained ones.

    Args:
        runs: the runs.
        drawn: those that have the number.
        layout: which setting is where.
        quantity: the number.
    """
    if len(runs) - len(drawn) > MOST_LEFT_OUT * len(runs) or joins_arms(drawn, layout):
        return True
    are_trained = {has_several_steps(run) for run in drawn}
    return len(are_trained) > 1 and not quantity.is_initial and layout.x != "train.steps"


def _make_panels(
    runs: Sequence[Run],
    layout: Layout,
    quantity: Quantity,
    *,
    with_inspected: bool,
) -> list[_Panel]:
    """A panel for each value of the facet; without one, for what the runs inspected over steps."""
    facets = arrangement.facets_of(runs, layout.facet)
    panels = [_Panel(title, chosen, quantity) for title, chosen in facets]
    if layout.facet or not with_inspected:
        return panels
    for inspected in numbers_over_steps(runs)[:MAX_INSPECTED]:
        panels.append(_Panel("", runs, inspected))
    return panels


def _fill(
    panels: Sequence[_Panel],
    runs: Sequence[Run],
    layout: Layout,
    styles: SeriesStyles,
    options: PlotOptions,
) -> None:
    """Makes the lines of all panels; those of the same number have the same kind of mean."""
    for name in {panel.quantity.name for panel in panels}:
        same_quantity = [panel for panel in panels if panel.quantity.name == name]
        lines = []
        for panel in same_quantity:
            lines += make_series(panel.runs, layout, panel.quantity, styles, runs)
        quantity = average_on_log(same_quantity[0].quantity, lines, options)
        for panel in same_quantity:
            panel.quantity = quantity
            panel.lines = make_series(panel.runs, layout, quantity, styles, runs)


def _theory_labels(panels: Sequence[_Panel]) -> list[str]:
    """What the dashed lines of the panels are called, each once."""
    labels = []
    for panel in panels:
        if any(series.has_theory for series in panel.lines):
            labels.append(THEORIES[panel.quantity.name].label)
    return list(dict.fromkeys(labels))


def _draw_panel(
    axes: Axes,
    panel: _Panel,
    runs: Sequence[Run],
    layout: Layout,
    options: PlotOptions,
) -> None:
    """Draws the lines of a panel; ``runs`` are those of all panels."""
    is_connected = joins_points(runs, layout)
    for series in panel.lines:
        draw_series(axes, series, is_connected=is_connected)
    axes.set_title(panel.title)
    scale_axes(axes, runs, layout.x, panel.lines, panel.quantity, options)
    mark_without_mean(axes, panel.lines)


def _label(axes: Sequence[Axes], panels: Sequence[_Panel]) -> None:
    """Names the vertical axes. Panels of one number share their limits, and a label in each row."""
    names = {panel.quantity.name for panel in panels}
    named = axes if len(names) > 1 else arrangement.row_starts(axes)
    if len(names) == 1:
        arrangement.share_limits(axes)
    for place, panel in zip(axes, panels, strict=True):
        if place in named:
            place.set_ylabel(panel.quantity.heading(panel.runs))


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
