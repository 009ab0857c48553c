"""The axis of a figure that shows the layers: numbers, or the names of a watched network."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axis import Axis, XAxis
from matplotlib.ticker import MaxNLocator

from research.gauges.numbering import INPUT as NUMBER_OF_INPUT
from research.gauges.numbering import entry_layers
from research.gauges.table import OF_SIGNALS
from research.records.runs import Run
from research.reporting.gauge_histories import read_gauge

MOST_NAMES = 5
MOST_NUMBERS = 6
FEW_LAYERS = 12  # up to which the input and layer 0 have room for a label each
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
        axis: ``axes.xaxis`` or ``axes.yaxis``, on which the entries of the gauge are at 0, 1, 2, ….
        runs: the runs of the panel.
        gauge: what is drawn over the layers.
    """
    names = _entry_names(runs, gauge)
    if not names:
        _number_layers(axis, runs, gauge)
        return
    positions = _spread(len(names) - 1)
    labels = [names[position] for position in positions]
    axis.set_ticks(positions, labels=labels)
    if isinstance(axis, XAxis) and sum(map(len, labels)) > MOST_LETTERS:
        for label in axis.get_ticklabels():
            label.set_rotation(SLANT)
            label.set_rotation_mode("anchor")
            label.set_horizontalalignment("right")


def _number_layers(
    axis: Axis,
    runs: Sequence[Run],
    gauge: str,
) -> None:
    """Labels entries by the numbers of their layers, and the input of the first layer as such."""
    histories = [read_gauge(run, gauge) for run in runs]
    count = max((history.values.shape[-1] for history in histories), default=0)
    layers = entry_layers(count, gauge in OF_SIGNALS)
    has_input = count > 0 and layers[0] == NUMBER_OF_INPUT
    positions = []
    labels = []
    if has_input:
        positions.append(0)
        labels.append(INPUT)
    ticks = MaxNLocator(MOST_NUMBERS, integer=True).tick_values(0, max(count - 1, 1))
    numbered = np.intersect1d(layers, np.asarray(ticks).astype(int))
    for layer in numbered.tolist():
        is_next_to_input = has_input and layer == 0 and count > FEW_LAYERS
        if not is_next_to_input:
            positions.append(int(np.searchsorted(layers, layer)))
            labels.append(str(layer))
    axis.set_ticks(positions, labels=labels)


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
