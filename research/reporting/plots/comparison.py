"""The figure of ``fathom compare``: gradients over the layers and the loss of two sides."""

from collections.abc import Mapping, Sequence

from research.gauges.table import SIGNAL_GRAD
from research.records.runs import Run
from research.reporting.aggregation import group_runs
from research.reporting.comparison import Comparison, compare_runs
from research.reporting.figures import PALETTE, CurveStyle, style
from research.reporting.gauge_histories import recorded_gauges
from research.reporting.plots import arrangement, curves, profile
from research.reporting.plots.arrangement import Drawing
from research.reporting.plots.layer_axis import label_layers
from research.reporting.varied_settings import SEED, differing_settings, short_name

STYLES = {
    "A": CurveStyle(label="A", color=PALETTE[0], linestyle="-"),
    "B": CurveStyle(label="B", color=PALETTE[1], linestyle="--"),
}


def draw_comparison(comparison: Comparison) -> Drawing:
    """Draws both sides into three panels: first and last measured step, training loss.

    Raises:
        ValueError: the runs of a side differ in more than their seed, so they have no mean.
    """
    sides = {"A": comparison.a, "B": comparison.b}
    for side, runs in sides.items():
        others = [path for path in differing_settings(runs) if path != SEED]
        if others:
            raise ValueError(
                f"the runs of {side} differ in {', '.join(others)}, so they have no common "
                "profile: add a filter, or draw them with fathom plot"
            )
    with style():
        return _draw(sides, comparison)


def draw_sides(a: Sequence[Run], b: Sequence[Run]) -> Drawing:
    """Compares two sides and draws them; see ``draw_comparison``."""
    return draw_comparison(compare_runs(a, b))


def _draw(sides: Mapping[str, Sequence[Run]], comparison: Comparison) -> Drawing:
    every_run = [*comparison.a, *comparison.b]
    has_profiles = SIGNAL_GRAD.name in recorded_gauges(every_run)
    steps = (profile.FIRST, profile.LAST) if has_profiles else ()
    legend = []
    for side in sides:
        words = _describe(side, comparison)
        legend.append(arrangement.line_handle(words, STYLES[side]))
    figure, axes = arrangement.make_panels(len(steps) + 1, legend=legend)
    is_log = has_profiles and profile.is_log_gauge(every_run, SIGNAL_GRAD.name)
    window = curves.smoothing_window(every_run, curves.DEFAULT_METRIC)
    is_log_loss = curves.is_log_metric(every_run, curves.DEFAULT_METRIC)
    count = 0
    has_seeds = False
    for side, runs in sides.items():
        (group,) = group_runs(runs, [])
        for panel, step in zip(axes, steps, strict=False):
            mean = profile.average_profile(
                group,
                SIGNAL_GRAD.name,
                step,
                STYLES[side],
                is_log,
            )
            profile.draw_profile(panel, mean, with_theory=False)
            has_seeds = has_seeds or len(mean.seeds) > 0
            title = profile.step_in_words(step, every_run, SIGNAL_GRAD.name)
            panel.set(title=title, xlabel="layer")
            label_layers(panel.xaxis, every_run, SIGNAL_GRAD.name)
            if is_log:
                panel.set_yscale("log")
        curve = curves.average_curve(
            group, curves.DEFAULT_METRIC, window, STYLES[side], is_log_loss
        )
        curves.draw_curve(axes[-1], curve)
        count = max(count, curve.count)
    if has_profiles:
        axes[0].set_ylabel(arrangement.gauge_label(SIGNAL_GRAD.name))
        arrangement.share_limits(axes[:-1])
    axes[-1].set(
        title="training loss",
        xlabel="training step",
        ylabel=curves.metric_label(curves.DEFAULT_METRIC, every_run, window),
        yscale="log" if is_log_loss else "linear",
    )
    arrangement.add_legend(figure, legend)
    notes = [arrangement.count_in_words([count])]
    if has_seeds:
        notes.append("thin lines over the layers: single seeds instead of the interval")
    arrangement.add_notes(figure, notes)
    return Drawing(figure, "comparison", notes)


def _describe(side: str, comparison: Comparison) -> str:
    """The side with the settings in which it differs from the other one."""
    lines = [side]
    for difference in comparison.settings[:3]:
        values = difference.a if side == "A" else difference.b
        if len(values) == 1:
            lines.append(f"{short_name(difference.path)} {values[0]}")
    return "\n".join(lines)
