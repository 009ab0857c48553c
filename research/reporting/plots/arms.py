"""A panel for each arm of a sweep: a number of its own against a setting of its own."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from research.records.runs import Run
from research.reporting.aggregation import group_runs, summarize
from research.reporting.figures import PALETTE, CurveStyle
from research.reporting.layout import Layout, arm_titles, choose_layout
from research.reporting.plots import arrangement
from research.reporting.plots.arrangement import MARKERS, Drawing, PlotOptions, SeriesStyles
from research.reporting.plots.series import (
    Series,
    average_on_log,
    draw_series,
    joins_points,
    make_series,
    mark_without_mean,
    meanings_of,
    notes_on,
    predict_number,
    scale_axes,
    scale_numbers,
    theory_note,
)
from research.reporting.quantities import Quantity, usual_quantity
from research.reporting.varied_settings import SEED, length_in_words

LABEL_WIDTH = 26  # letters in a line of the label of a vertical axis
TITLE_WIDTH = 28  # letters in a line of the title of a panel
MARGIN = 0.04  # of a vertical axis that several panels share
NAME_WIDTH = 10  # letters in a line of the name of an arm below a panel
MOST_UPRIGHT = 4  # such names; more are slanted


@dataclass(frozen=True)
class Arm:
    """Runs that share a panel.

    Attributes:
        title: what sets them apart.
        runs: the runs.
        layout: which setting is where; ``seed`` is the horizontal axis where none differs.
        quantity: what is drawn.
    """

    title: str
    runs: list[Run]
    layout: Layout
    quantity: Quantity

    @property
    def has_axis(self) -> bool:
        """Whether a setting differs between its runs, but for the seed."""
        return self.layout.x != SEED


@dataclass
class _Panel:
    """What one panel shows: an arm with an axis of its own, or several arms side by side."""

    arms: list[Arm]

    @property
    def quantity(self) -> Quantity:
        return self.arms[0].quantity

    def takes(self, arm: Arm) -> bool:
        """Whether an arm is drawn next to those of this panel."""
        are_flat = not arm.has_axis and not self.arms[0].has_axis
        return are_flat and arm.quantity.name == self.quantity.name

    def draw(self, axes: Axes, options: PlotOptions) -> tuple[list[Series], Quantity]:
        """Draws it; returns its lines, and the quantity as it is averaged."""
        if self.arms[0].has_axis:
            return _draw_arm(axes, self.arms[0], options)
        return _draw_side_by_side(axes, self.arms, options)


def draw_arms(arms: Sequence[Sequence[Run]], options: PlotOptions) -> Drawing:
    """Draws a panel for each arm, with its own number, axis and legend.

    Arms of which the runs differ in nothing but the seed are side by side in one panel, if they
    show the same number.
    """
    panels: list[_Panel] = []
    lengths = [length_in_words(runs) for runs in arms]
    has_lengths = len(set(lengths)) > 1
    for runs, name, length in zip(arms, arm_titles(arms), lengths, strict=True):
        unbroken = length.replace(" ", "\N{NO-BREAK SPACE}")
        title = f"{name}, {unbroken}" if has_lengths and length else name
        arm = _make_arm(title, runs)
        taking = [panel for panel in panels if panel.takes(arm)]
        if taking:
            taking[0].arms.append(arm)
        else:
            panels.append(_Panel([arm]))
    figure, axes = arrangement.make_panels(len(panels))
    every_line = []
    theories = []
    is_geometric = False
    for panel, of_panel in zip(axes, panels, strict=True):
        lines, quantity = of_panel.draw(panel, options)
        every_line += lines
        theories.append(theory_note(lines, quantity))
        is_geometric = is_geometric or quantity.is_factor
    _share_limits(axes, panels)
    has_lines = any(joins_points(arm.runs, arm.layout) for each in panels for arm in each.arms)
    notes = arrangement.begin_notes([run for arm in arms for run in arm])
    notes += ["a panel for each arm of the sweep", *notes_on(every_line, has_lines=has_lines)]
    if is_geometric:
        notes.append("means of factors, and of losses over decades, are geometric")
    notes += [note for note in dict.fromkeys(theories) if note]
    notes += meanings_of(panel.quantity for panel in panels)
    arrangement.add_notes(figure, notes)
    return Drawing(figure, "line_arms", notes)


def _make_arm(title: str, runs: Sequence[Run]) -> Arm:
    whole = choose_layout(runs)
    layout = Layout(whole.x or SEED, (*whole.colors, *whole.facets))
    return Arm(title, list(runs), layout, usual_quantity(runs))


def _draw_arm(
    axes: Axes,
    arm: Arm,
    options: PlotOptions,
) -> tuple[list[Series], Quantity]:
    runs = arm.runs
    styles = SeriesStyles(runs, arm.layout)
    lines = make_series(runs, arm.layout, arm.quantity, styles, runs)
    quantity = average_on_log(arm.quantity, lines, options)
    lines = make_series(runs, arm.layout, quantity, styles, runs)
    is_connected = joins_points(runs, arm.layout)
    for series in lines:
        draw_series(axes, series, is_connected=is_connected)
    scale_axes(axes, runs, arm.layout.x, lines, quantity, options)
    mark_without_mean(axes, lines)
    axes.set_title(textwrap.fill(arm.title, TITLE_WIDTH))
    axes.set_ylabel(textwrap.fill(quantity.heading(runs), LABEL_WIDTH))
    arrangement.add_panel_legend(axes, styles.handles(has_markers=True))
    return lines, quantity


def _draw_side_by_side(
    axes: Axes,
    arms: Sequence[Arm],
    options: PlotOptions,
) -> tuple[list[Series], Quantity]:
    """Draws the mean of each arm over its seeds, with the names of the arms below."""
    quantity = arms[0].quantity
    series = _series_of_arms(arms, quantity)
    quantity = average_on_log(quantity, [series], options)
    series = _series_of_arms(arms, quantity)
    draw_series(axes, series, is_connected=False)
    scale_numbers(axes, [series], quantity, options)
    mark_without_mean(axes, [series])
    names = [textwrap.fill(arm.title, NAME_WIDTH) for arm in arms]
    if len(arms) == 1:
        axes.set_title(textwrap.fill(arms[0].title, TITLE_WIDTH))
        names = [""]
    arrangement.name_ticks(axes, names, is_slanted=len(arms) > MOST_UPRIGHT)
    runs = [run for arm in arms for run in arm.runs]
    axes.set_ylabel(textwrap.fill(quantity.heading(runs), LABEL_WIDTH))
    return [series], quantity


def _series_of_arms(arms: Sequence[Arm], quantity: Quantity) -> Series:
    groups = []
    for arm in arms:
        groups += group_runs(arm.runs, [])
    return Series(
        style=CurveStyle("", color=PALETTE[0], marker=MARKERS[0]),
        positions=np.arange(len(groups), dtype=float),
        summaries=tuple(summarize(group, quantity) for group in groups),
        predictions=predict_number(groups, quantity.name),
        limits=quantity.limits,
        has_names=True,
    )


def _share_limits(axes: Iterable[Axes], panels: Iterable[_Panel]) -> None:
    """Gives the panels of the same number the same vertical axis, where all are linear."""
    by_quantity: dict[str, list[Axes]] = {}
    quantities = {}
    for panel, of_panel in zip(axes, panels, strict=True):
        name = of_panel.quantity.name
        quantities[name] = of_panel.quantity
        by_quantity.setdefault(name, []).append(panel)
    for name, same_quantity in by_quantity.items():
        scales = {panel.get_yscale() for panel in same_quantity}
        if scales == {"linear"}:
            arrangement.share_limits(same_quantity, has_same_x=False)
            if math.isinf(quantities[name].limits[1]):
                _widen(same_quantity)


def _widen(axes: Iterable[Axes]) -> None:
    """Adds a margin to the vertical axes, so that no point lies on the edge of its panel."""
    for panel in axes:
        low, high = panel.get_ylim()
        margin = MARGIN * (high - low)
        panel.set_ylim(low - margin, high + margin)
