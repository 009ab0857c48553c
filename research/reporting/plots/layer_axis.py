"""The axis of a figure that shows the layers: numbers, or the names of a watched network."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axis import Axis, XAxis
from matplotlib.ticker import MaxNLocator

from research.records.runs import Run
from research.reporting.gauge_histories import read_gauge

MOST_NAMES = 5
MOST_LETTERS = 24  # of names that are upright below a panel
SLANT = 35  # degrees
INPUT = "input"  # of the first layer


def label_layers(
    axis: Axis,
    runs: Sequence[Run],
    gauge: str,
) -> None:
    """Puts ticks on an axis that shows layers: names where all runs have the same, else numbers.

    Args:
        axis: ``axes.xaxis`` or ``axes.yaxis``.
        runs: the runs of the panel.
        gauge: what is drawn over the layers.
    """
    names = _entry_names(runs, gauge)
    if not names:
        axis.set_major_locator(MaxNLocator(integer=True))
        return
    positions = _spread(len(names) - 1)
    labels = [names[position] for position in positions]
    axis.set_ticks(positions, labels=labels)
    if isinstance(axis, XAxis) and sum(map(len, labels)) > MOST_LETTERS:
        for label in axis.get_ticklabels():
            label.set_rotation(SLANT)
            label.set_rotation_mode("anchor")
            label.set_horizontalalignment("right")


def _spread(last: int) -> list[int]:
    """Few numbers from 0 to ``last``, at equal distances where that is possible."""
    gaps = MOST_NAMES - 1
    for fewer in (gaps, gaps - 1, gaps - 2):
        if last % fewer == 0:
            gaps = fewer
            break
    gaps = min(gaps, max(last, 1))
    positions = np.linspace(0, last, gaps + 1) + 0.5
    return np.unique(np.floor(positions).astype(int)).tolist()


def axis_label(runs: Sequence[Run], gauge: str) -> str:
    """What the axis is called."""
    return "layer" if _entry_names(runs, gauge) else "layer (0: input)"


def _entry_names(runs: Sequence[Run], gauge: str) -> list[str]:
    """The name of each entry of a gauge; empty where runs have none, or not the same."""
    found = set()
    for run in runs:
        names = [str(name) for name in run.info.get("layer_names") or []]
        values = read_gauge(run, gauge).values
        if not len(values):
            continue
        if len(names) + 1 == values.shape[1]:
            names.insert(0, INPUT)
        found.add(tuple(names) if len(names) == values.shape[1] else ())
    return list(found.pop()) if len(found) == 1 else []
