"""Test errors of ResNet-110 on CIFAR-10 for every shortcut, and the published ones."""

import dataclasses
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from research.records.queries import error, where
from research.records.runs import Run
from research.reporting.figures import new_figure
from research.reporting.panels import plot_measured_and_published

FAIL = 20.0  # % of test error from which the paper says "fail"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: the settings, and the median test error in %, ``FAIL`` for "fail"."""

    settings: Mapping[str, object]
    published: float


ROWS = {
    "identity": Row({"skip.kind": "identity"}, 6.61),
    "shortcut gate, b = −6": Row({"skip.kind": "gated", "skip.gate_bias": -6}, 6.91),
    "exclusive gate, b = −6": Row({"skip.kind": "highway", "skip.gate_bias": -6}, 8.70),
    "exclusive gate, b = −7": Row({"skip.kind": "highway", "skip.gate_bias": -7}, 9.81),
    "1×1 convolution": Row({"skip.kind": "projection"}, 12.22),
    "0.5, branch × 0.5": Row({"skip.kind": "scaled", "skip.branch_scale": 0.5}, 12.35),
    "shortcut gate, b = 0": Row({"skip.kind": "gated", "skip.gate_bias": 0}, 12.86),
    "none": Row({"skip.kind": "none"}, FAIL),
    "0.5, branch × 1": Row({"skip.kind": "scaled", "skip.branch_scale": 1.0}, FAIL),
    "exclusive gate, b = 0": Row({"skip.kind": "highway", "skip.gate_bias": 0}, FAIL),
    "dropout 0.5": Row({"skip.kind": "dropout"}, FAIL),
}


def figure(runs: Sequence[Run]) -> Figure:
    """A row for each shortcut, in the paper's order; errors of 20 % and more as 20."""
    canvas, axes = new_figure(5.5, 3.4)
    measured = {}
    published = {}
    for name, row in ROWS.items():
        group = where(runs, row.settings)
        measured[name] = [min(error(run, "eval"), FAIL) for run in group]
        published[name] = row.published
    plot_measured_and_published(axes[0, 0], measured, published)
    axes[0, 0].set(xlabel="test error in %; 20: fail", xlim=(5, 21))
    canvas.suptitle("CIFAR-10, ResNet-110: what is on the shortcut decides", fontsize=9)
    return canvas
