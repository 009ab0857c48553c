"""A row for each arm of a sweep that has more arms than a figure has room for panels."""

from collections.abc import Sequence

import numpy as np

from research.records.runs import Run
from research.reporting.aggregation import reason_to_leave_out
from research.reporting.figures import PALETTE, new_figure
from research.reporting.layout import arm_titles
from research.reporting.plots import arrangement
from research.reporting.plots.arrangement import Drawing
from research.reporting.quantities import Quantity, usual_quantity

ROW_HEIGHT = 0.15  # inches
WIDTH = 5.0
MARGIN = 0.7  # above and below the rows
MAX_ROWS = 60


def draw_rows(arms: Sequence[Sequence[Run]]) -> Drawing:
    """Draws a number of each run as a dot, in a row for each arm, the highest mean on top.

    A run without the number is a cross at the left edge.

    Args:
        arms: the runs of each arm, at most ``MAX_ROWS`` of them.
    """
    every_run = [run for arm in arms for run in arm]
    quantity = usual_quantity(every_run)
    named = []
    for title, arm in zip(arm_titles(arms), arms, strict=True):
        values = _values_of(arm, quantity)
        mean = float(np.mean(values)) if len(values) else -np.inf
        named.append((mean, f"{title or 'others'} ({len(arm)})", values, len(arm) - len(values)))
    named.sort(key=lambda row: row[0])
    height = ROW_HEIGHT * len(arms) + MARGIN
    figure, ((axes,),) = new_figure(WIDTH, height)
    num_crosses = 0
    for row, (_, _, values, num_without) in enumerate(named):
        axes.plot(values, [row] * len(values), "o", color=PALETTE[0], markersize=3, alpha=0.4)
        if len(values):
            axes.plot(np.mean(values), row, "|", color="black", markersize=7)
        if num_without:
            axes.plot(0.0, row, "x", color=PALETTE[1], markersize=4, clip_on=False)
        num_crosses += num_without
    axes.set_yticks(range(len(named)), [name for _, name, _, _ in named], fontsize=5.5)
    axes.set_ylim(-0.7, len(named) - 0.3)
    axes.set_xlabel(quantity.heading(every_run))
    notes = arrangement.begin_notes(every_run)
    notes += [
        "a row for each arm of the sweep with the number of its runs",
        "dots: single runs; black: their mean",
    ]
    if num_crosses:
        notes.append(f"×: arms with runs without a value, {num_crosses} in all")
    arrangement.add_notes(figure, notes)
    return Drawing(figure, f"rows_{quantity.name}", notes)


def _values_of(runs: Sequence[Run], quantity: Quantity) -> np.ndarray:
    """The number of each run that ended well and has it [M]."""
    values = []
    for run in runs:
        if not reason_to_leave_out(run, quantity):
            values.append(quantity.value(run))
    return np.array(values, float)
