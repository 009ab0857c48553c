"""A gauge over the layers, at some steps: geometric means and intervals over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from research.config.arguments import naming_option
from research.config.wording import pluralize
from research.diagnosis.depth import skipped_layers
from research.diagnosis.prediction import profile_with
from research.gauges.table import SIGNAL_GRAD
from research.records.queries import stack_padded
from research.records.runs import Run
from research.reporting.aggregation import (
    Averaged,
    Group,
    average_with_interval,
    count_missing,
    group_runs,
    summarize,
)
from research.reporting.figures import CurveStyle, set_log_scale
from research.reporting.gauge_histories import GaugeHistory, find_gauge, name_end, read_gauge
from research.reporting.layout import choose_layout
from research.reporting.panels import plot_profile, theory_handle
from research.reporting.plots import arrangement
from research.reporting.plots.arrangement import Drawing, PlotOptions, SeriesStyles
from research.reporting.plots.layer_axis import label_layers
from research.reporting.quantities import PREDICTED_FACTOR, inspected, meaning_of
from research.theory.profiles import factor_per_layer

FIRST = "first"
LAST = "last"
DEPTH = "model.depth"
SAME_PREDICTION = 0.1  # nats over all layers by which two predictions may differ
FEW_SEEDS = 3  # up to here, the interval of a logarithm can span decades that no seed has
SEED_WIDTH = 0.5  # of the line of a single seed
NUM_MARKERS = 8  # of a line, so that lines can be distinguished in grey
SQUARED = "verdicts and factors per layer are of the squared gradient, ‖∂L/∂h‖²"
PROFILE_RATIO = 10.0  # gauges that span more have a logarithmic axis


@dataclass(frozen=True)
class MeanProfile:
    """A gauge over the layers at one step, averaged over the runs of a group.

    Attributes:
        style: how it looks.
        averaged: the mean over runs with its interval [N], geometric on a logarithmic axis. It has
            no interval where there are few seeds.
        seeds: the curve of each run [M, N] instead of an interval; empty where there is one.
        count: how many runs are averaged.
        num_left_out: how many runs have no profile at this step, or did not end well.
        has_zeros: whether a value of some run is exactly 0.
        predicted: what mean-field theory predicts for each layer over the last one [N+1], or None.
    """

    style: CurveStyle
    averaged: Averaged
    seeds: np.ndarray
    count: int
    num_left_out: int
    has_zeros: bool
    predicted: np.ndarray | None


def draw(runs: Sequence[Run], options: PlotOptions) -> Drawing:
    """Draws a gauge over the layers; a row of panels for each step.

    Args:
        runs: the runs.
        options: ``y`` is the gauge, ``steps`` the steps, ``color`` and ``facet`` settings.

    Raises:
        ValueError: no run recorded this gauge, a step was not measured, or there is no such
            setting.
    """
    with naming_option("--y" if options.y else ""):
        gauge = find_gauge(options.y or SIGNAL_GRAD.name, runs)
    every_run = runs
    runs = [run for run in runs if len(read_gauge(run, gauge).steps)]
    layout = choose_layout(
        runs,
        color=options.color,
        facet=options.facet,
        has_x=False,
        has_styles=True,
    )
    steps = _parse_steps(options.steps, runs, gauge)
    styles = SeriesStyles(runs, layout)
    facets = arrangement.facets_of(runs, layout.facet)
    asked = options.log_axis("y")
    is_log = is_log_gauge(runs, gauge) if asked is None else asked
    profiles = []
    drawn_steps = []
    for step in steps:
        of_step = []
        for _, chosen in facets:
            groups = group_runs(chosen, layout.series)
            of_panel = []
            for group in groups:
                curve_style = styles.of(group.settings)
                of_panel.append(average_profile(group, gauge, step, curve_style, is_log))
            of_step.append(of_panel)
        if any(profile.count for of_panel in of_step for profile in of_panel):
            drawn_steps.append(step)
            profiles += of_step
    if not drawn_steps:
        raise ValueError(
            f"no run that ended well measured {gauge} at step {steps[-1]}; --steps first draws the "
            "first one"
        )
    steps = drawn_steps
    every_profile = [profile for of_panel in profiles for profile in of_panel]
    has_theory = any(profile.predicted is not None for profile in every_profile)
    legend = styles.handles(has_markers=True)
    if has_theory:
        legend.append(theory_handle())
    figure, axes = arrangement.make_panels(
        len(profiles),
        legend=legend,
        columns=len(facets) if len(steps) > 1 and len(facets) > 1 else 0,
    )
    titles = _titles(steps, [title for title, _ in facets], runs, gauge)
    shown = [chosen for _, chosen in facets] * len(steps)
    for panel, title, of_panel, chosen in zip(axes, titles, profiles, shown, strict=True):
        for position, profile in enumerate(of_panel):
            if not profile.count:
                continue
            marker = profile.style.marker if styles.has_legend else None
            draw_profile(panel, profile, marker=marker, shift=position / len(of_panel))
        panel.set_title(title)
        panel.set_xlabel("layer")
        label_layers(panel.xaxis, chosen, gauge)
        if is_log:
            set_log_scale(panel)
    arrangement.share_limits(axes, has_same_x=layout.facet != DEPTH)
    for row_start in arrangement.row_starts(axes):
        row_start.set_ylabel(arrangement.gauge_label(gauge))
    arrangement.add_legend(figure, legend)
    every_group = group_runs(runs, [*layout.series, *layout.facets])
    notes = arrangement.begin_notes(runs)
    notes += _notes(every_profile, every_group, is_log) + styles.notes
    if len(runs) < len(every_run):
        notes.append(f"not drawn: {len(every_run) - len(runs)} that did not measure it")
    for diagnostic in inspected(runs):
        if diagnostic.name == gauge:
            notes.append(f"{arrangement.gauge_label(gauge)}: {meaning_of(diagnostic)}")
    if gauge == SIGNAL_GRAD.name:
        notes.append(SQUARED)
    arrangement.add_notes(figure, notes)
    return Drawing(figure, f"profile_{gauge}", notes)


def draw_profile(
    axes: Axes,
    profile: MeanProfile,
    *,
    marker: str | None = None,
    shift: float = 0.0,
    with_theory: bool = True,
) -> None:
    """Draws a mean over the layers with its interval, or few seeds, and its prediction.

    Args:
        axes: where to draw.
        profile: what is drawn.
        marker: the shape of the sparse markers on the line; None for none.
        shift: where the first marker is, from 0 at the first layer to 1 at that of the second one,
            so that the markers of several lines do not cover each other.
        with_theory: whether the prediction is drawn.
    """
    for curve in profile.seeds:
        axes.plot(
            curve,
            color=profile.style.color,
            linestyle=profile.style.linestyle,
            linewidth=SEED_WIDTH,
            alpha=0.6,
        )
    gap = max(1, len(profile.averaged.mean) // NUM_MARKERS)
    plot_profile(
        axes,
        profile.averaged,
        predicted=profile.predicted if with_theory else None,
        color=profile.style.color,
        linestyle=profile.style.linestyle,
        marker=marker,
        markevery=(int(shift * gap), gap),
        markersize=3,
    )


def _parse_steps(
    text: str,
    runs: Sequence[Run],
    gauge: str,
) -> list[str]:
    """The steps that are drawn: ``first``, ``last``, or numbers of steps that were measured.

    Raises:
        ValueError: a step is something else, or no run measured it.
    """
    measured: set[int] = set()
    for run in runs:
        measured |= set(read_gauge(run, gauge).steps.tolist())
    if not text:
        has_last = len(measured) > 1 and any(run.status == "done" for run in runs)
        return [FIRST, LAST] if has_last else [FIRST]
    steps = []
    for word in text.split(","):
        word = word.strip()
        if word in (FIRST, LAST):
            steps.append(word)
            continue
        if not word.isdigit():
            raise ValueError(f"--steps must be first, last or the number of a step, got {word}")
        if int(word) not in measured:
            nearest = min(measured, key=lambda step: abs(step - int(word)))
            raise ValueError(
                f"--steps: step {word} was not measured; the nearest that was is {nearest}"
            )
        steps.append(word)
    return steps


def _row_of(history: GaugeHistory, step: str) -> np.ndarray:
    """The profile at a step [N]; empty where it was not measured."""
    if not len(history.steps):
        return np.zeros(0)
    if step == FIRST:
        return history.values[0]
    if step == LAST:
        return history.values[-1]
    rows = np.flatnonzero(history.steps == int(step))
    return history.values[rows[0]] if len(rows) else np.zeros(0)


def is_log_gauge(runs: Sequence[Run], gauge: str) -> bool:
    """Whether the values of a gauge span more than a decade, without those that are 0."""
    parts = []
    for run in runs:
        values = read_gauge(run, gauge).values
        parts.append(values[values != 0])  # zeros are left out of a logarithmic axis
    return arrangement.is_logarithmic(np.concatenate(parts), PROFILE_RATIO)


def average_profile(
    group: Group,
    gauge: str,
    step: str,
    curve_style: CurveStyle,
    is_log: bool,
) -> MeanProfile:
    """The mean of a gauge over the seeds of a group, at one step.

    Args:
        group: the runs. Those that did not end well count at the first step only.
        gauge: the name of the gauge.
        step: ``first``, ``last``, or the number of a step.
        curve_style: how it will look.
        is_log: whether the mean is the geometric one.
    """
    rows = []
    for run in group.runs:
        if step != FIRST and run.status != "done":
            continue
        history = read_gauge(run, gauge)
        row = _row_of(history, step)
        if len(row):
            rows.append(row)
    values = stack_padded(rows)
    has_zeros = bool(np.any(values == 0))
    averaged = average_with_interval(values, is_geometric=is_log)
    seeds = values[:0]
    if 1 < len(rows) <= FEW_SEEDS:
        unknown = np.full_like(averaged.mean, np.nan)
        averaged = Averaged(averaged.mean, unknown, unknown)
        seeds = np.where(values > 0, values, np.nan) if is_log else values
    return MeanProfile(
        style=curve_style,
        averaged=averaged,
        seeds=seeds,
        count=len(rows),
        num_left_out=len(group.runs) - len(rows),
        has_zeros=has_zeros and is_log,
        predicted=_predict(group, gauge, step, len(rows[0]) - 1) if rows else None,
    )


def _predict(
    group: Group,
    gauge: str,
    step: str,
    num_layers: int,
) -> np.ndarray | None:
    """The predicted gradient at each layer over that at the last one [N+1], at the first step.

    The runs recorded the factor a layer that was predicted for their own data. Where that for
    standardised inputs is the same, its profile is theirs as well; else every layer has the factor.
    """
    if gauge != SIGNAL_GRAD.name or step not in (FIRST, "0"):
        return None
    recorded = summarize(group, PREDICTED_FACTOR).mean
    if not math.isfinite(recorded) or recorded <= 0:
        return None
    run = group.runs[0]
    distance = np.arange(num_layers, -1, -1)
    constant = math.log(recorded) * distance
    profile = None if run.is_watched else profile_with(run.config)
    if profile is None or len(profile) != len(constant):
        return np.exp(constant / 2)
    factor = factor_per_layer(profile, skipped_layers(num_layers))
    difference = num_layers * abs(math.log(factor / recorded))
    squared = profile if difference <= SAME_PREDICTION else constant
    return np.exp(squared / 2)


def _titles(
    steps: Sequence[str],
    facets: Sequence[str],
    runs: Sequence[Run],
    gauge: str,
) -> list[str]:
    titles = []
    for step in steps:
        words = step_in_words(step, runs, gauge)
        for facet in facets:
            titles.append(f"{facet}, {words}" if facet else words)
    return titles


def step_in_words(
    step: str,
    runs: Sequence[Run],
    gauge: str,
) -> str:
    """``step 299``; ``last measured step`` where the runs end at different steps."""
    if step not in (FIRST, LAST):
        return f"step {step}"
    is_first = step == FIRST
    counted = [run for run in runs if is_first or run.status == "done"]
    return name_end(counted, gauge, is_first=is_first).removeprefix("the ")


def _notes(
    profiles: Sequence[MeanProfile],
    groups: Sequence[Group],
    is_log: bool,
) -> list[str]:
    notes = [_average_in_words(profiles, is_log)]
    num_left_out = sum(profile.num_left_out for profile in profiles)
    if num_left_out:
        left_out = pluralize(num_left_out, "profile")
        notes.append(f"not averaged: {left_out} of runs that did not end well or measured none")
    num_missing = count_missing(groups)
    if num_missing:
        notes.append(arrangement.missing_in_words(num_missing))
    if any(profile.has_zeros for profile in profiles):
        notes.append("values that are exactly 0 are not drawn")
    return notes


def _average_in_words(profiles: Sequence[MeanProfile], is_log: bool) -> str:
    """What a line is, and what is around it."""
    counts = [profile.count for profile in profiles]
    has_band = max(counts, default=0) > FEW_SEEDS
    words = arrangement.count_in_words(counts, is_log=is_log, interval="shaded" if has_band else "")
    if not any(len(profile.seeds) for profile in profiles):
        return words
    which = f"single seeds, where they are at most {FEW_SEEDS}" if has_band else "single seeds"
    return f"{words}, thin lines: {which}"
