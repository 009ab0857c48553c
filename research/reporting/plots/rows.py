"""A row for each arm of a sweep that has more arms than a figure has room for panels."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

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
CROSS = {"marker": "x", "markersize": 4, "color": PALETTE[1]}
DOTS = {"marker": "o", "markersize": 3, "color": PALETTE[0], "alpha": 0.4}
MEAN = {"marker": "|", "markersize": 7, "color": "black"}


@dataclass(frozen=True)
class _Row:
    """The runs of an arm.

    Attributes:
        name: the title of the arm, and how many runs it has.
        values: the number of each run that has it [M].
        num_without: how many runs do not have it.
        is_geometric: whether the mean is the geometric one, as of factors.
    """

    name: str
    values: np.ndarray
    num_without: int
    is_geometric: bool = False

    @property
    def mean(self) -> float:
        """The mean of the values; −∞ without any, which puts the row at the bottom."""
        if not len(self.values):
            return -np.inf
        if self.is_geometric:
            return float(np.exp(np.mean(np.log(self.values))))
        return float(np.mean(self.values))


def draw_rows(arms: Sequence[Sequence[Run]]) -> Drawing:
    """Draws a number of each run as a dot, in a row for each arm, the highest mean on top.

    A run without the number is a cross at the left edge.

    Args:
        arms: the runs of each arm, at most ``MAX_ROWS`` of them.
    """
    every_run = list(itertools.chain.from_iterable(arms))
    quantity = usual_quantity(every_run)
    rows = _make_rows(arms, quantity)
    height = ROW_HEIGHT * len(rows) + MARGIN
    figure, ((axes,),) = new_figure(WIDTH, height)
    for y, row in enumerate(rows):
        axes.plot(row.values, np.full(len(row.values), y), linestyle="", **DOTS)
        if len(row.values):
            axes.plot(row.mean, y, **MEAN)
        if row.num_without:
            axes.plot(0.0, y, clip_on=False, **CROSS)
    names = [row.name for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=5.5)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(quantity.heading(every_run))
    mean = "geometric mean" if quantity.is_factor else "mean"
    notes = arrangement.begin_notes(every_run)
    notes += [
        "a row for each arm of the sweep with the number of its runs",
        f"dots: single runs; black: their {mean}",
    ]
    num_crosses = sum(row.num_without for row in rows)
    if num_crosses:
        notes.append(f"×: arms with runs without a value, {num_crosses} in all")
    arrangement.add_notes(figure, notes)
    return Drawing(figure, f"rows_{quantity.name}", notes)


def _make_rows(arms: Sequence[Sequence[Run]], quantity: Quantity) -> list[_Row]:
    """A row for each arm, in ascending order of the means."""
    rows = []
    for title, arm in zip(arm_titles(arms), arms, strict=True):
        values = _values_of(arm, quantity)
        row = _Row(
            name=f"{title or 'others'} ({len(arm)})",
            values=values,
            num_without=len(arm) - len(values),
            is_geometric=quantity.is_factor and bool(np.all(values > 0)),
        )
        rows.append(row)
    return sorted(rows, key=lambda row: row.mean)


def _values_of(runs: Sequence[Run], quantity: Quantity) -> np.ndarray:
    """The number of each run that ended well and has it [M]."""
    values = []
    for run in runs:
        if not reason_to_leave_out(run, quantity):
            values.append(quantity.value(run))
    return np.array(values, float)
