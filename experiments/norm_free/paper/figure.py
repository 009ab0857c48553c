"""Test errors on CIFAR-10 with batch norm and with three initialisations in its place."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from research.records.queries import error, where
from research.records.runs import Run
from research.reporting.figures import beside_published, new_figure

KINDS = {"identity": "batch norm", "fixup": "Fixup", "skipinit": "SkipInit", "rezero": "ReZero"}
PUBLISHED = {56: {"batch norm": 6.97}, 110: {"batch norm": 6.61, "Fixup": 7.24}}


def figure(runs: Sequence[Run]) -> Figure:
    """A panel a depth, a row an initialisation."""
    canvas, axes = new_figure(7.0, 2.6, 1, 2)
    for panel, (depth, published) in zip(axes[0], PUBLISHED.items(), strict=True):
        found = {
            name: [
                error(run, "eval") for run in where(runs, {"skip.kind": kind, "model.depth": depth})
            ]
            for kind, name in KINDS.items()
        }
        beside_published(panel, found, published)
        panel.set(xlabel="test error in %", title=f"{depth} layers")
    canvas.suptitle("CIFAR-10: a good beginning replaces normalisation", fontsize=9)
    return canvas
