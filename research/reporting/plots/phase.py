"""A number of a run over two settings as colours, with the curves of mean-field theory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize

from research.config.options import NormKind, SkipKind
from research.config.wording import pluralize
from research.records.runs import Run
from research.reporting.aggregation import (
    Summary,
    group_runs,
    left_out_in_words,
    summarize,
    usual_seeds,
)
from research.reporting.panels import CellAxis, plot_map, plot_theory_on_map
from research.reporting.plots import arrangement
from research.reporting.plots.arrangement import Drawing, PlotOptions
from research.reporting.quantities import Quantity, find_quantity, usual_quantity
from research.reporting.selection import find_setting
from research.reporting.varied_settings import (
    distinct_values,
    independent_settings,
    is_numeric,
    setting_text,
    setting_value,
    short_name,
    varied_settings,
)

DEPTH = "model.depth"
SIGMA_W = "init.sigma_w"
SIGMA_B = "init.sigma_b"
DEPTH_SCALES = 6  # a network trains up to about six depth scales (Schoenholz et al. 2017)
THEORY_POINTS = 36
LEAST_RANGE = 0.1  # of the colours of factors, in their logarithm on both sides of 1


def draw(runs: Sequence[Run], options: PlotOptions) -> Drawing:
    """Draws a number over two settings.

    Args:
        runs: the runs.
        options: ``x`` and ``y`` are the settings of the axes, ``color`` is the number.

    Raises:
        ValueError: there is no such number or setting, or the runs differ in fewer than two
            numbers.
    """
    quantity = (
        find_quantity(options.color, runs, "--color") if options.color else usual_quantity(runs)
    )
    x_path, y_path = _choose_axes(runs, options)
    facet_paths = _choose_panels(runs, options, x_path, y_path)
    placed = [run for run in runs if _has_both(run, x_path, y_path)]
    groups = group_runs(placed, [*facet_paths, x_path, y_path])
    usual = usual_seeds(groups)
    by_panel: dict[tuple[Any, ...], dict[tuple[Any, Any], Summary]] = {}
    for group in groups:
        key = tuple(group.settings[path] for path in facet_paths)
        cell = group.settings[x_path], group.settings[y_path]
        by_panel.setdefault(key, {})[cell] = summarize(group, quantity, usual)
    grid = _Grid(runs, x_path, y_path, options)
    summaries = [summary for cells in by_panel.values() for summary in cells.values()]
    norm = _make_norm(summaries, quantity, options)
    figure, axes = arrangement.make_panels(len(by_panel))
    image = None
    theory = _theory_curve(runs, grid)
    for panel, (key, cells) in zip(axes, by_panel.items(), strict=True):
        image = grid.draw(panel, cells, norm, _colour_map(quantity))
        if theory is not None:
            plot_theory_on_map(panel, theory.x, theory.y)
        panel.set_title(_title(facet_paths, key))
    for row_start in arrangement.row_starts(axes):
        row_start.set_ylabel(arrangement.setting_label(y_path))
    if image is not None:
        bar = figure.colorbar(image, ax=axes, pad=0.02)
        bar.set_label(quantity.heading(runs))
    notes = arrangement.begin_notes(runs)
    notes += _notes(summaries, theory)
    if len(placed) < len(runs):
        num_without = len(runs) - len(placed)
        notes.append(f"not drawn: {pluralize(num_without, 'run')} without one of the settings")
    arrangement.add_notes(figure, notes)
    name = f"phase_{quantity.name}_{arrangement.file_word(x_path)}_{arrangement.file_word(y_path)}"
    return Drawing(figure, name, notes)


def _has_both(
    run: Run,
    x_path: str,
    y_path: str,
) -> bool:
    return setting_value(run, x_path) is not None and setting_value(run, y_path) is not None


def phase_settings(runs: Sequence[Run]) -> list[str]:
    """The number settings in which runs differ, those with the most values first; depth last."""
    numbers = [path for path in varied_settings(runs) if is_numeric(runs, path)]

    def order(path: str) -> tuple[int, bool]:
        return -len(distinct_values(runs, path)), path == DEPTH

    return sorted(numbers, key=order)


def _choose_axes(runs: Sequence[Run], options: PlotOptions) -> tuple[str, str]:
    x_path = find_setting(options.x, runs, "--x") if options.x else ""
    y_path = find_setting(options.y, runs, "--y") if options.y else ""
    facet_path = find_setting(options.facet, runs, "--facet") if options.facet else ""
    candidates = []
    for path in phase_settings(runs):
        if path not in (x_path, y_path, facet_path):
            candidates.append(path)
    if not x_path and candidates:
        x_path = candidates.pop(0)
    if not y_path and candidates:
        y_path = candidates.pop(0)
    if not x_path or not y_path:
        raise ValueError(
            "a phase diagram needs two settings of numbers in which the runs differ: "
            "--kind line draws one"
        )
    if x_path == y_path:
        raise ValueError(f"--x and --y must be two settings, got {x_path} twice")
    for path in (x_path, y_path):
        if not is_numeric(runs, path):
            raise ValueError(f"{path} must hold numbers to be an axis of a phase diagram")
    return x_path, y_path


def _choose_panels(
    runs: Sequence[Run],
    options: PlotOptions,
    x_path: str,
    y_path: str,
) -> list[str]:
    """Every other setting in which the runs differ: each combination has a panel."""
    first = [find_setting(options.facet, runs, "--facet")] if options.facet else []
    given = [x_path, y_path, *first]
    return [*first, *independent_settings(runs, varied_settings(runs), given)]


class _Grid:
    """The cells of a phase diagram along both axes."""

    def __init__(
        self,
        runs: Sequence[Run],
        x_path: str,
        y_path: str,
        options: PlotOptions,
    ):
        self.paths = {"x": x_path, "y": y_path}
        self.axes = {}
        for axis, path in self.paths.items():
            values = [value for value in distinct_values(runs, path) if value is not None]
            asked = options.log_axis(axis) if axis == "x" else None
            is_log = arrangement.is_geometric(values) if asked is None else asked
            self.axes[axis] = CellAxis(np.array(values, float), is_log)

    def draw(
        self,
        axes: Axes,
        cells: dict[tuple[Any, Any], Summary],
        norm: Normalize,
        colour_map: str,
    ) -> Any:
        """Draws the cells of one panel; returns the image, for the colour bar."""
        x_axis = self.axes["x"]
        y_axis = self.axes["y"]
        shape = (len(y_axis.centres), len(x_axis.centres))
        means = np.full(shape, np.nan)
        for (x, y), summary in cells.items():
            column = np.searchsorted(x_axis.centres, x)
            row = np.searchsorted(y_axis.centres, y)
            means[row, column] = summary.mean
            if not summary.count:
                axes.text(x, y, "×", fontsize=7, ha="center", va="center")
        image = plot_map(axes, x_axis, y_axis, means, norm=norm, colour_map=colour_map)
        for axis, path in self.paths.items():
            arrangement.scale_setting_axis(
                axes,
                path,
                self.axes[axis].centres.tolist(),
                is_log=self.axes[axis].is_log,
                axis=axis,
            )
        axes.set_ylabel("")
        axes.set_xlim(x_axis.edges()[[0, -1]])
        return image


def _colour_map(quantity: Quantity) -> str:
    """Factors part at 1, so they have two colours; other numbers go from dark to light."""
    return "RdBu_r" if quantity.is_factor else "viridis"


def _make_norm(
    summaries: Sequence[Summary],
    quantity: Quantity,
    options: PlotOptions,
) -> Normalize:
    means = np.array([summary.mean for summary in summaries])
    means = means[np.isfinite(means)]
    if not len(means):
        return Normalize(0, 1)
    if quantity.is_factor and means.min() > 0:
        distances = np.abs(np.log(means))
        farthest = math.exp(max(distances.max(), LEAST_RANGE))
        return LogNorm(1 / farthest, farthest)
    if quantity.name.endswith("accuracy"):
        return Normalize(0, 1)
    asked = options.log_axis("y")
    is_log = arrangement.is_logarithmic(means) if asked is None else asked
    if is_log and means.min() > 0:
        return LogNorm(means.min(), means.max())
    return Normalize(means.min(), means.max())


def _title(paths: Sequence[str], key: Sequence[Any]) -> str:
    parts = []
    for path, value in zip(paths, key, strict=True):
        if value is not None:
            parts.append(f"{short_name(path)} {setting_text(value)}")
    return ", ".join(parts)


@dataclass(frozen=True)
class _TheoryCurve:
    """A curve of mean-field theory over the plane of the two settings: x [P], y [P]."""

    x: np.ndarray
    y: np.ndarray
    label: str


def _theory_curve(runs: Sequence[Run], grid: _Grid) -> _TheoryCurve | None:
    """What theory says of this plane, for plain networks that agree in their nonlinearity."""
    from research.theory import mean_field

    activation = _common(runs, "activation.kind")
    is_plain = _common(runs, "skip.kind") == SkipKind.none.name
    is_plain = is_plain and _common(runs, "norm.kind") == NormKind.none.name
    if not is_plain or activation not in mean_field.NONLINEARITIES:
        return None
    paths = (grid.paths["x"], grid.paths["y"])
    edges = grid.axes["x"].edges()
    x = np.linspace(max(edges[0], 1e-3), edges[-1], THEORY_POINTS)
    if paths == (SIGMA_W, DEPTH):
        sigma_b = _common(runs, SIGMA_B)
        if sigma_b is None:
            return None
        scales = _evaluate(
            lambda sigma: mean_field.correlation_depth_scale(activation, sigma**2, sigma_b**2), x
        )
        return _TheoryCurve(x, DEPTH_SCALES * scales, "6 ξ_c, the depth that information reaches")
    if paths == (SIGMA_B, SIGMA_W):
        critical = _evaluate(lambda b: mean_field.critical_sigma_w2(activation, b**2), x)
        return _TheoryCurve(x, np.sqrt(critical), "χ₁ = 1, the edge of chaos")
    if paths == (SIGMA_W, SIGMA_B):
        rows = grid.axes["y"].edges()
        y = np.linspace(max(rows[0], 1e-3), rows[-1], THEORY_POINTS)
        critical = _evaluate(lambda b: mean_field.critical_sigma_w2(activation, b**2), y)
        return _TheoryCurve(np.sqrt(critical), y, "χ₁ = 1, the edge of chaos")
    return None


def _common(runs: Sequence[Run], path: str) -> Any:
    """The value that all runs have for a setting; None where they differ."""
    values = distinct_values(runs, path)
    if len(values) != 1:
        return None
    return values[0]


def _evaluate(function: Callable[[float], float | None], points: np.ndarray) -> np.ndarray:
    """A function at some points; NaN where it has no value."""
    values = []
    for point in points:
        try:
            value = function(float(point))
        except (ValueError, OverflowError):
            value = None
        values.append(np.nan if value is None else value)
    return np.array(values, float)


def _notes(summaries: Sequence[Summary], theory: _TheoryCurve | None) -> list[str]:
    most = max(summary.count for summary in summaries)
    notes = [f"mean over {most} seeds"] if most > 1 else []
    left_out = left_out_in_words(summaries)
    if left_out:
        notes.append(f"not averaged: {left_out}")
    if any(not summary.count for summary in summaries):
        notes.append("×: no run has a value")
    if theory is not None:
        notes.append(f"dashed: mean-field theory, {theory.label}")
    return notes
