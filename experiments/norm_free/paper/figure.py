"""Test errors on CIFAR-10 with batch norm and with three initialisations in its place."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import error, where
from research.records.runs import Run
from research.reporting.figures import new_figure
from research.reporting.panels import plot_measured_and_published

NAMES = {"identity": "batch norm", "fixup": "Fixup", "skipinit": "SkipInit", "rezero": "ReZero"}
PUBLISHED = {  # test error in per cent, by depth
    56: {"batch norm": 6.97},
    110: {"batch norm": 6.61, "Fixup": 7.24},
}


def figure(runs: Sequence[Run]) -> Figure:
    """A panel for each depth, a row for each initialisation."""
    canvas, axes = new_figure(7.0, 2.6, 1, 2)
    for panel, (depth, published) in zip(axes[0], PUBLISHED.items(), strict=True):
        _draw_errors(panel, where(runs, {"model.depth": depth}), published)
        panel.set_title(f"{depth} layers")
    canvas.suptitle("CIFAR-10: a good beginning replaces normalisation", fontsize=9)
    return canvas


def _draw_errors(
    axes: Axes,
    runs: Sequence[Run],
    published: Mapping[str, float],
) -> None:
    errors = {}
    for kind, name in NAMES.items():
        group = where(runs, {"skip.kind": kind})
        errors[name] = [error(run, "eval") for run in group]
    plot_measured_and_published(axes, errors, published)
    axes.set_xlabel("test error in %")
