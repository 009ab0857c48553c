"""A gauge over layers and steps as colours: means over seeds, of logarithmic colours geometric."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize

from research.config.arguments import naming_option
from research.config.wording import pluralize
from research.gauges.table import SIGNAL_GRAD
from research.records.runs import Run
from research.reporting.aggregation import Group, column_means, group_runs
from research.reporting.gauge_histories import GaugeHistory, find_gauge, read_gauge
from research.reporting.layout import choose_layout
from research.reporting.plots import arrangement
from research.reporting.plots.arrangement import Drawing, PlotOptions
from research.reporting.plots.layer_axis import label_layers
from research.reporting.plots.profile import PROFILE_RATIO
from research.reporting.varied_settings import setting_text, short_name

MAX_COLUMNS = 300  # of a picture; of more measured steps, every second, third … is drawn
SMALLEST_SHARE = 1e-12  # of the greatest value; smaller values have the colour of this one


def draw(runs: Sequence[Run], options: PlotOptions) -> Drawing:
    """Draws a gauge over steps and layers, a panel for each combination of settings.

    Args:
        runs: the runs.
        options: ``y`` or ``color`` is the gauge.

    Raises:
        ValueError: no run recorded this gauge, or there are too many combinations of settings.
    """
    with naming_option("--y" if options.y else "--color" if options.color else ""):
        gauge = find_gauge(options.y or options.color or SIGNAL_GRAD.name, runs)
    layout = choose_layout(runs, facet=options.facet, has_x=False)
    paths = [*layout.facets, *layout.colors]
    groups = group_runs(runs, paths)
    histories = [_histories(group, gauge) for group in groups]
    counts = [len(of_group) for of_group in histories]
    is_log = _is_log(histories, options)
    means = [_mean_history(of_group, is_log) for of_group in histories]
    norm = _make_norm([history.values for history in means], is_log)
    figure, axes = arrangement.make_panels(len(groups))
    image = None
    for panel, group, history in zip(axes, groups, means, strict=True):
        if len(history.steps):
            image = _draw_map(panel, history, norm)
        else:
            panel.text(0.5, 0.5, "no run to average", ha="center", transform=panel.transAxes)
        panel.set_title(_title(group))
        panel.set_xlabel("training step")
        label_layers(panel.yaxis, group.runs, gauge)
    row_starts = arrangement.row_starts(axes)
    for panel in axes:
        if panel in row_starts:
            panel.set_ylabel("layer")
    if image is not None:
        is_cut = any(np.any(history.values < norm.vmin) for history in means)
        extend = "min" if is_cut else "neither"
        bar = figure.colorbar(image, ax=axes, pad=0.02, extend=extend)
        bar.set_label(arrangement.gauge_label(gauge))
    notes = arrangement.begin_notes(runs)
    notes += _notes(groups, counts, isinstance(norm, LogNorm))
    arrangement.add_notes(figure, notes)
    return Drawing(figure, f"heatmap_{gauge}", notes)


def _histories(group: Group, gauge: str) -> list[GaugeHistory]:
    """The gauge of the runs that ended well."""
    histories = []
    for run in group.runs:
        history = read_gauge(run, gauge)
        if run.status == "done" and len(history.steps):
            histories.append(history)
    return histories


def _is_log(histories: Sequence[Sequence[GaugeHistory]], options: PlotOptions) -> bool:
    """Whether colours are logarithmic: of numbers that span more than a decade, without zeros."""
    asked = options.log_axis("y")
    if asked is not None:
        return asked
    parts = [history.values.ravel() for of_group in histories for history in of_group]
    numbers = np.concatenate(parts) if parts else np.zeros(0)
    return arrangement.is_logarithmic(numbers[numbers != 0], PROFILE_RATIO)


def _mean_history(histories: Sequence[GaugeHistory], is_log: bool) -> GaugeHistory:
    """The mean over runs at the steps that all of them measured.

    Args:
        histories: the gauge of each run.
        is_log: whether it is the geometric mean, of what is not 0.
    """
    if not histories:
        return GaugeHistory(np.zeros(0), np.zeros((0, 0)))
    steps = histories[0].steps
    for history in histories[1:]:
        steps = np.intersect1d(steps, history.steps)
    stride = math.ceil(len(steps) / MAX_COLUMNS)
    steps = steps[:: max(1, stride)]
    stacked = []
    for history in histories:
        rows = np.searchsorted(history.steps, steps)
        stacked.append(history.values[rows])
    values = np.stack(stacked)
    flat = values.reshape(len(values), -1)
    if is_log:
        positive = np.where(flat > 0, flat, np.nan)
        mean = np.exp(column_means(np.log(positive)))
    else:
        mean = column_means(flat)
    return GaugeHistory(steps, mean.reshape(values.shape[1:]))


def _make_norm(values: Sequence[np.ndarray], is_log: bool) -> Normalize:
    """The same colours in all panels."""
    numbers = np.concatenate([array.ravel() for array in values])
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return Normalize(0, 1)
    positive = numbers[numbers > 0]
    if is_log and len(positive):
        high = positive.max()
        low = max(positive.min(), SMALLEST_SHARE * high)
        return LogNorm(low, high)
    return Normalize(numbers.min(), numbers.max())


def _draw_map(
    axes: Axes,
    history: GaugeHistory,
    norm: Normalize,
) -> Any:
    """The map of one group; returns the image, for the colour bar."""
    layers = np.arange(history.values.shape[1])
    image = axes.pcolormesh(
        history.steps,
        layers,
        np.ma.masked_invalid(history.values.T),
        norm=norm,
        cmap="viridis",
        shading="nearest",
        rasterized=True,
    )
    axes.set_facecolor("0.85")
    axes.grid(False)
    return image


def _title(group: Group) -> str:
    parts = []
    for path, value in group.settings.items():
        if value is not None:
            parts.append(f"{short_name(path)} {setting_text(value)}")
    return ", ".join(parts)


def _notes(
    groups: Sequence[Group],
    counts: Sequence[int],
    is_log: bool,
) -> list[str]:
    most = max(counts)
    notes = []
    if most > 1:
        mean = "geometric mean" if is_log else "mean"
        notes.append(f"{mean} over {most} seeds")
    num_runs = sum(len(group.runs) for group in groups)
    num_left_out = num_runs - sum(counts)
    if num_left_out:
        left_out = pluralize(num_left_out, "run")
        notes.append(f"not averaged: {left_out} that did not end well or measured nothing")
    notes.append("grey: exactly 0 or no value" if is_log else "grey: no value")
    return notes
