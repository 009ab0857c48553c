"""What all kinds of figures share: panels, colours of series, axes, legend, notes."""

import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from research.config.wording import pluralize
from research.gauges.table import (
    ACTIVATION_MEAN,
    ACTIVATION_RMS,
    BRANCH_GRAD,
    DEAD,
    GRAD_NORM,
    SATURATED,
    SIGNAL_GRAD,
    SKIP_GRAD,
    UPDATE_NORM,
    UPDATE_RATIO,
    WEIGHT_NORM,
)
from research.records.runs import Run
from research.reporting.figures import (
    FIGURE_FORMATS,
    PALETTE,
    CurveStyle,
    check_target,
    depth_colours,
    new_figure,
    save_figure,
    style,
)
from research.reporting.layout import MANY_SETTINGS, Layout
from research.reporting.quantities import label_of
from research.reporting.varied_settings import (
    differing_settings,
    distinct_values,
    fixed_in_words,
    is_number,
    is_numeric,
    is_recording,
    named_value,
    setting_text,
    setting_value,
    short_name,
    values_of,
    values_order,
)

MAX_PANELS = 12
MAX_SERIES = 40
PANELS_IN_A_ROW = 3
PANEL_WIDTH = 2.35  # inches
PANEL_HEIGHT = 2.0
LEGEND_MARGIN = 0.5
LEGEND_LINE = 0.16  # the height of an entry
LETTER_WIDTH = 0.055
NOTES_HEIGHT = 0.35
AXIS_MARGIN = 0.05
MARKERS = "osv^DPX*"
LINESTYLES = ("-", "--", ":", "-.")
LOG_RATIO = 30.0  # numbers that span more have a logarithmic axis
MAX_NAMED_TICKS = 8
TICK_LETTER = 0.043  # the width of a letter below an axis, as a share of its length
TICK_MARGIN = 0.01  # between two labels
LEAST_GAP = 0.005  # of an axis: numbers that are nearer to each other are almost the same
MOST_LETTERS = 24  # of names that are upright below an axis
LEAST_ODD = 3  # series from which on one can be unlike all others
MAX_WORDS = 3  # of an entry of the legend: its values, and what else sets it apart
GAUGE_LABELS: Mapping[str, str] = {
    SIGNAL_GRAD.name: "gradient of the signal, ‖∂L/∂h‖",
    BRANCH_GRAD.name: "gradient through the branch",
    SKIP_GRAD.name: "gradient through the shortcut",
    GRAD_NORM.name: "gradient of the parameters, ‖∂L/∂θ‖",
    ACTIVATION_RMS.name: "signal (root mean square)",
    ACTIVATION_MEAN.name: "mean of the signal",
    SATURATED.name: "share of saturated elements",
    DEAD.name: "share of dead units",
    WEIGHT_NORM.name: "norm of the parameters, ‖θ‖",
    UPDATE_NORM.name: "norm of the update, ‖Δθ‖",
    UPDATE_RATIO.name: "relative update, ‖Δθ‖/‖θ‖",
}
SETTING_LABELS: Mapping[str, str] = {
    "model.depth": "depth (layers)",
    "model.width": "width (units)",
    "init.sigma_w": "$\\sigma_w$",
    "init.sigma_b": "$\\sigma_b$",
    "train.steps": "training steps",
    "train.batch_size": "batch size (examples)",
}


@dataclass(frozen=True)
class PlotOptions:
    """What a user asked for; what is empty is chosen.

    Attributes:
        kind: one of ``line``, ``curves``, ``profile``, ``heatmap`` and ``phase``.
        x: the setting on the horizontal axis.
        y: what is drawn.
        color: the setting that has colours, or the number that a phase diagram shows.
        facet: the setting with a panel for each value.
        log: ``x``, ``y``, ``xy`` or ``none``.
        steps: the steps of a profile.
    """

    kind: str = ""
    x: str = ""
    y: str = ""
    color: str = ""
    facet: str = ""
    log: str = ""
    steps: str = ""

    def log_axis(self, axis: str) -> bool | None:
        """Whether an axis is logarithmic; None where that follows from the numbers."""
        if not self.log:
            return None
        return axis in self.log and self.log != "none"


@dataclass
class Drawing:
    """A figure and what a reader must know of it.

    Attributes:
        figure: the figure.
        name: the name of its file, without an ending.
        notes: sentences below the figure.
    """

    figure: Figure
    name: str
    notes: list[str] = field(default_factory=list)

    def save(self, target: str | Path) -> list[Path]:
        """Saves the figure as one file, or as PNG, SVG and PDF; returns the files.

        Args:
            target: a file that ends in ``.png``, ``.svg`` or ``.pdf``; without such an ending all
                three are written.

        Raises:
            TypeError: the target is no path.
            ValueError: the file has another ending, or cannot be written.
        """
        target = check_target("target", target)
        suffix = target.suffix.lower().removeprefix(".")
        formats = [suffix] if suffix in FIGURE_FORMATS else list(FIGURE_FORMATS)
        stem = target.with_suffix("") if suffix in FIGURE_FORMATS else target
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with style():
                save_figure(self.figure, stem.parent, stem.name, formats)
        except OSError as error:
            raise ValueError(f"{target} cannot be written: {error.strerror}") from error
        return [stem.with_name(f"{stem.name}.{each}") for each in formats]

    def _repr_png_(self) -> bytes:
        """The figure for a notebook."""
        file = io.BytesIO()
        with style():
            self.figure.savefig(file, format="png")
        return file.getvalue()


def gauge_label(name: str) -> str:
    """What a gauge or an inspection is called on an axis."""
    return GAUGE_LABELS.get(name, label_of(name))


def setting_label(path: str) -> str:
    """What a setting is called on an axis, with its unit."""
    return SETTING_LABELS.get(path, short_name(path))


def make_panels(
    num_panels: int,
    *,
    legend: Sequence[Line2D] = (),
    columns: int = 0,
) -> tuple[Figure, list[Axes]]:
    """A figure with panels of equal size.

    Args:
        num_panels: how many.
        legend: the entries of the legend, for which room is left on the right.
        columns: how many are in a row; by default up to three.

    Raises:
        ValueError: there are too many panels for one figure.
    """
    if num_panels > MAX_PANELS:
        raise ValueError(
            f"{num_panels} panels are too many for one figure (at most {MAX_PANELS}): "
            "choose fewer runs by a filter, or another --facet"
        )
    columns = columns or _columns(num_panels)
    rows = math.ceil(num_panels / columns)
    width = max(PANEL_WIDTH * columns, 3.0)
    height = max(PANEL_HEIGHT * rows, 2.3)
    if legend:
        longest = max(_line_length(entry) for entry in legend)
        width += LEGEND_MARGIN + LETTER_WIDTH * longest
        height = max(height, LEGEND_LINE * (len(legend) + 1))
    height += NOTES_HEIGHT
    figure, axes = new_figure(width, height, rows, columns)
    panels = list(axes.flat)
    for unused in panels[num_panels:]:
        unused.remove()
    return figure, panels[:num_panels]


def _line_length(entry: Line2D) -> int:
    """The letters in the longest line of an entry of the legend."""
    lines = str(entry.get_label()).split("\n")
    return max(map(len, lines))


def _columns(num_panels: int) -> int:
    """Three in a row, but two rows of two for four panels."""
    if num_panels == 4:
        return 2
    return min(num_panels, PANELS_IN_A_ROW)


def facets_of(runs: Sequence[Run], facet: str) -> list[tuple[str, list[Run]]]:
    """The title and the runs of each panel; one without a title where there is no facet."""
    if not facet:
        return [("", list(runs))]
    panels = []
    for value in distinct_values(runs, facet):
        chosen = [run for run in runs if setting_value(run, facet) == value]
        panels.append((f"{short_name(facet)} {setting_text(value)}", chosen))
    return panels


class SeriesStyles:
    """The colour, marker and kind of line of each series of a figure.

    Raises:
        ValueError: there are more series than a reader can distinguish.
    """

    def __init__(self, runs: Sequence[Run], layout: Layout):
        self._layout = layout
        self._keys = _color_keys(runs, layout)
        if len(self._keys) > MAX_SERIES:
            names = ", ".join(map(short_name, layout.colors))
            raise ValueError(
                f"the runs have {len(self._keys)} combinations of {names}, and a panel has room "
                f"for {MAX_SERIES}: choose fewer runs by a filter, or another --color and --facet"
            )
        self._texts = _key_texts(self._keys, layout.colors)
        if len(layout.colors) < MANY_SETTINGS:
            self._texts = _with_oddities(self._texts, self._keys, runs, layout)
        self._colours = _make_colours(self._keys)
        self._styles = distinct_values(runs, layout.style) if layout.style else []

    @property
    def has_legend(self) -> bool:
        """Whether a legend names series."""
        return self._names_colours or len(self._styles) > 1

    @property
    def _names_colours(self) -> bool:
        """Whether a legend names the colours: several, or one that was asked for."""
        return len(self._keys) > 1 or self._layout.is_color_given

    def of(self, settings: Mapping[str, Any]) -> CurveStyle:
        """The style of the series with these settings."""
        key = tuple(settings[path] for path in self._layout.colors)
        position = self._keys.index(key)
        linestyle = LINESTYLES[0]
        if self._layout.style:
            value = settings[self._layout.style]
            linestyle = LINESTYLES[self._styles.index(value)]
        return CurveStyle(
            label=self._texts[position],
            color=self._colours[position],
            marker=MARKERS[position % len(MARKERS)],
            linestyle=linestyle,
        )

    def _title(self) -> str:
        """The names of the settings that have colours, where the entries do not name them."""
        if len(self._layout.colors) >= MANY_SETTINGS:
            return "what is unusual"
        return ", ".join(map(short_name, self._layout.colors))

    @property
    def notes(self) -> list[str]:
        """What *usual* is; empty where the legend names every value."""
        if len(self._layout.colors) < MANY_SETTINGS or len(self._keys) < 2:
            return []
        usual = _usual_values(self._keys)
        parts = []
        for path, value in zip(self._layout.colors, usual, strict=True):
            parts.append(named_value(path, value))
        return [f"usual: {', '.join(parts)}"]

    def handles(self, has_markers: bool) -> list[Line2D]:
        """The entries of the legend: colours below the names of their settings, then lines."""
        handles = []
        if self._names_colours:
            handles.append(_heading(self._title()))
        for position, text in enumerate(self._texts):
            if not self._names_colours:
                break
            marker = MARKERS[position % len(MARKERS)] if has_markers else None
            handles.append(
                Line2D(
                    [],
                    [],
                    color=self._colours[position],
                    marker=marker,
                    markersize=4,
                    label=text,
                )
            )
        if len(self._styles) > 1:
            handles.append(_heading(short_name(self._layout.style)))
            for value, linestyle in zip(self._styles, LINESTYLES, strict=False):
                text = setting_text(value)
                handles.append(Line2D([], [], color="0.3", linestyle=linestyle, label=text))
        return handles


def line_handle(label: str, curve_style: CurveStyle) -> Line2D:
    """The entry of a line in the legend."""
    linestyle: Any = curve_style.linestyle
    return Line2D([], [], color=curve_style.color, linestyle=linestyle, label=label)


def _is_heading(entry: Line2D) -> bool:
    has_line = entry.get_linestyle() != "None"
    has_marker = entry.get_marker() not in ("None", None, "")
    return not has_line and not has_marker


def _heading(text: str) -> Line2D:
    return Line2D([], [], linestyle="none", label=text)


def _key_texts(keys: Sequence[tuple[Any, ...]], paths: Sequence[str]) -> list[str]:
    """What the legend says of each combination of values; of many settings only the unusual."""
    if len(paths) < MANY_SETTINGS or len(keys) < 2:
        return [", ".join(map(setting_text, key)) for key in keys]
    usual = _usual_values(keys)
    of_networks = [_without_recording(key, paths) for key in keys]
    texts = []
    for key, of_network in zip(keys, of_networks, strict=True):
        is_unique = of_networks.count(of_network) == 1
        parts = []
        for path, value, usual_value in zip(paths, key, usual, strict=True):
            is_needless = is_unique and is_recording(path)
            if value != usual_value and not is_needless:
                parts.append(named_value(path, value))
        texts.append(", ".join(parts) or "usual")
    return texts


def _without_recording(key: Sequence[Any], paths: Sequence[str]) -> list[Any]:
    """The values of the settings that say what is trained, not what is recorded of it."""
    return [value for value, path in zip(key, paths, strict=True) if not is_recording(path)]


def _with_oddities(
    texts: Sequence[str],
    keys: Sequence[tuple[Any, ...]],
    runs: Sequence[Run],
    layout: Layout,
) -> list[str]:
    """The entries of a legend, with the names by which a series is unlike all others.

    Args:
        texts: the entry of each series.
        keys: the values of the settings that have colours, of each series.
        runs: the runs of all series.
        layout: which setting is where.
    """
    if len(keys) < LEAST_ODD:
        return list(texts)
    shown = [*layout.series, *layout.facets]
    groups = {path.split(".")[0] for path in shown}
    candidates = []
    for path in differing_settings(runs):
        is_name = not is_numeric(runs, path)
        if is_name and path.split(".")[0] not in groups and not is_recording(path):
            candidates.append(path)
    entries = []
    for text, key in zip(texts, keys, strict=True):
        own = [run for run in runs if values_of(run, layout.colors) == key]
        others = [run for run in runs if values_of(run, layout.colors) != key]
        words = [text]
        for path in candidates:
            values = distinct_values(own, path)
            usual = distinct_values(others, path)
            is_odd = len(values) == 1 and len(usual) == 1 and values != usual
            if is_odd and values[0] is not None:
                words.append(named_value(path, values[0]))
        entries.append(", ".join(words[:MAX_WORDS]))
    return entries


def _usual_values(keys: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The most frequent value of each setting."""
    usual = []
    for values in zip(*keys, strict=True):
        ((value, _),) = Counter(values).most_common(1)
        usual.append(value)
    return usual


def _color_keys(runs: Sequence[Run], layout: Layout) -> list[tuple[Any, ...]]:
    """The combinations of values that have a colour, in order."""
    keys = {values_of(run, layout.colors) for run in runs}
    return sorted(keys, key=lambda key: values_order(layout.colors, key))


def _make_colours(keys: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Light to dark for three or more numbers and for many series, else colours of the palette."""
    are_numbers = all(len(key) == 1 and is_number(key[0]) for key in keys)
    is_ordered = are_numbers and len(keys) > 2
    if is_ordered or len(keys) > len(PALETTE):
        return depth_colours(len(keys))
    return list(PALETTE[: len(keys)])


def add_legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Puts the legend to the right of the panels."""
    entries = list(handles)
    if not entries:
        return
    title = None
    num_headings = sum(map(_is_heading, entries))
    if num_headings == 1 and _is_heading(entries[0]):
        title = entries.pop(0).get_label()
    legend = figure.legend(
        handles=entries,
        loc="outside right upper",
        handlelength=1.8,
        title=title,
        alignment="left",
        title_fontproperties={"weight": "bold", "size": 7},
    )
    for entry, text in zip(entries, legend.get_texts(), strict=True):
        if _is_heading(entry):
            text.set_fontweight("bold")


def add_panel_legend(axes: Axes, handles: Sequence[Line2D]) -> None:
    """Puts a legend into a panel, where it hides least."""
    if handles:
        title, *entries = handles
        axes.legend(
            handles=entries,
            title=title.get_label(),
            fontsize=5.5,
            title_fontsize=5.5,
            handlelength=1.4,
            borderpad=0.2,
        )


def begin_notes(runs: Sequence[Run]) -> list[str]:
    """The first note of a figure: what all runs have in common; empty where that is nothing."""
    words = fixed_in_words(runs)
    return [words] if words else []


def add_notes(figure: Figure, notes: Iterable[str]) -> None:
    """Writes sentences below the panels, in small letters."""
    text = wrap_notes(notes, figure.get_size_inches()[0])
    if text:
        figure.supxlabel(text, fontsize=6, color="0.35", x=0.01, ha="left")


def wrap_notes(notes: Iterable[str], width: float) -> str:
    """The notes in lines that fit into a figure of a width in inches."""
    import textwrap

    text = "; ".join(notes)
    num_letters = max(30, int(width * 22))
    return textwrap.fill(text, num_letters)


def is_logarithmic(values: Sequence[float] | np.ndarray, ratio: float = LOG_RATIO) -> bool:
    """Whether numbers are positive and span more than ``ratio``."""
    numbers = np.asarray(values, float)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return False
    least = numbers.min()
    return bool(least > 0 and numbers.max() > ratio * least)


def is_geometric(values: Sequence[float]) -> bool:
    """Whether the values of a setting are spaced more evenly on a logarithmic axis."""
    numbers = np.unique(np.asarray(values, float))
    if len(numbers) < 2 or numbers[0] <= 0:
        return False
    span = numbers[-1] / numbers[0]
    if len(numbers) == 2 or span < 8:
        return bool(span >= 10)
    return _unevenness(np.log(numbers)) < _unevenness(numbers)


def _unevenness(numbers: np.ndarray) -> float:
    gaps = np.diff(numbers)
    return float(gaps.std() / gaps.mean())


def scale_setting_axis(
    axes: Axes,
    path: str,
    values: Sequence[float],
    *,
    is_log: bool | None,
    axis: str = "x",
) -> None:
    """Scales and labels an axis that shows a number setting.

    Args:
        axes: the panel.
        path: the setting.
        values: its values.
        is_log: whether the axis is logarithmic; None for what suits the values.
        axis: ``x`` or ``y``.
    """
    is_log = is_geometric(values) if is_log is None else is_log
    numbers = [value for value in values if value is not None]
    matplotlib_axis = axes.xaxis if axis == "x" else axes.yaxis
    if is_log and min(numbers, default=0) > 0:
        getattr(axes, f"set_{axis}scale")("log")
    has_few = len(numbers) <= MAX_NAMED_TICKS and _are_round(numbers)
    if is_log or has_few:
        ticks = thinned(without_near(sorted(set(numbers)), is_log), is_log)
        matplotlib_axis.set_ticks(ticks, labels=[tick_text(tick) for tick in ticks])
        matplotlib_axis.set_ticks([], minor=True)
    if axis == "x" and len(set(numbers)) > 1:
        axes.set_xlim(*_limits(numbers, is_log))
    matplotlib_axis.set_label_text(setting_label(path))


def _limits(numbers: Sequence[float], is_log: bool) -> tuple[float, float]:
    """The limits of an axis with a margin around the numbers."""
    low = min(numbers)
    high = max(numbers)
    ends = np.array([low, high], float)
    if is_log:
        ends = np.log(ends)
    margin = AXIS_MARGIN * (ends[1] - ends[0])
    ends = ends + [-margin, margin]
    if is_log:
        ends = np.exp(ends)
    low, high = ends.tolist()
    return low, high


def tick_text(tick: float) -> str:
    """A number below an axis, in at most seven characters."""
    text = f"{tick:g}"
    return text if len(text) <= 6 else f"{tick:.2g}"


def _are_round(numbers: Sequence[float]) -> bool:
    return all(len(f"{number:g}") <= 4 for number in numbers)


def without_near(numbers: Sequence[float], is_log: bool) -> list[float]:
    """The numbers of an axis without those that are almost the same as the one before."""
    positions = np.log(numbers) if is_log else np.array(numbers, float)
    gaps = np.diff(positions)
    is_apart = gaps >= LEAST_GAP * gaps.sum()
    others = np.array(numbers)[1:]
    return [numbers[0], *others[is_apart].tolist()]


def thinned(ticks: Sequence[float], is_log: bool) -> list[float]:
    """The ticks without those whose labels would overlap another; the ends stay."""
    if len(ticks) < 2:
        return list(ticks)
    positions = np.log(ticks) if is_log else np.array(ticks, float)
    length = positions[-1] - positions[0]

    def fits(first: int, second: int) -> bool:
        num_letters = len(tick_text(ticks[first])) + len(tick_text(ticks[second]))
        width = TICK_MARGIN + TICK_LETTER * num_letters / 2
        return bool(positions[second] - positions[first] >= length * width)

    kept = [0]
    for number in range(1, len(ticks)):
        is_last = number == len(ticks) - 1
        while is_last and len(kept) > 1 and not fits(kept[-1], number):
            kept.pop()
        if fits(kept[-1], number):
            kept.append(number)
    return [ticks[number] for number in kept]


def count_in_words(
    counts: Iterable[int],
    *,
    is_log: bool = False,
    interval: str = "shaded",
) -> str:
    """What a line is: ``mean over 3 seeds``; without a word where there is nothing to average.

    Args:
        counts: how many seeds each mean has.
        is_log: whether the means are geometric.
        interval: how the interval around a mean is drawn; empty where it is not.
    """
    found = [count for count in counts if count]
    most = max(found, default=0)
    if most < 2:
        return "one run each"
    mean = "geometric mean" if is_log else "mean"
    fewest = min(found)
    seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
    words = f"{mean} over {seeds} seeds"
    return f"{words}, {interval}: 95 % interval of the mean" if interval else words


def missing_in_words(count: int) -> str:
    """The note on seeds that other lines of a figure have."""
    return f"not averaged: {pluralize(count, 'missing seed')}"


def untrained_in_words(count: int) -> str:
    """The note on runs of a single step, which are not drawn with trained ones."""
    return f"not drawn: {pluralize(count, 'run')} of a single step"


def share_limits(axes: Sequence[Axes], *, has_same_x: bool = True) -> None:
    """Gives all panels the same limits, so that they can be compared.

    Args:
        axes: the panels.
        has_same_x: whether the horizontal limits are shared as well as the vertical ones.
    """
    filled = [panel for panel in axes if panel.has_data()] or axes
    horizontal = [panel.get_xlim() for panel in filled]
    vertical = [panel.get_ylim() for panel in filled]
    for panel in axes:
        panel.set_ylim(_widest(vertical))
        if has_same_x:
            panel.set_xlim(_widest(horizontal))


def _widest(limits: Sequence[tuple[float, float]]) -> tuple[float, float]:
    low = min(limit[0] for limit in limits)
    high = max(limit[1] for limit in limits)
    return low, high


def row_starts(axes: Sequence[Axes]) -> list[Axes]:
    """The first panel of each row."""
    starts = []
    for panel in axes:
        place = panel.get_subplotspec()
        if place is not None and place.is_first_col():
            starts.append(panel)
    return starts


def name_ticks(
    axes: Axes,
    names: Sequence[str],
    *,
    is_slanted: bool | None = None,
) -> None:
    """Writes names on the horizontal axis.

    Args:
        axes: the panel.
        names: the names.
        is_slanted: whether they are slanted; None for where they are long.
    """
    if is_slanted is None:
        is_slanted = sum(map(len, names)) > MOST_LETTERS
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    if is_slanted:
        axes.tick_params(axis="x", labelrotation=35)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")


def file_word(path: str) -> str:
    """A setting as a part of the name of a file."""
    word = path.removesuffix(".kind").removesuffix(".name")
    return word.rpartition(".")[2]
