"""Test errors of ResNet-110 on CIFAR-10 for every shortcut, beside the published ones."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from research.records.queries import error
from research.records.runs import Run
from research.reporting.figures import beside_published, new_figure

FAIL = 20.0
NAMES = {  # kind, and what else tells it: its name, and the published median
    ("identity", None): ("identity", 6.61),
    ("gated", -6): ("shortcut gate, b = −6", 6.91),
    ("highway", -6): ("exclusive gate, b = −6", 8.70),
    ("highway", -7): ("exclusive gate, b = −7", 9.81),
    ("projection", None): ("1×1 convolution", 12.22),
    ("scaled", 0.5): ("0.5, branch × 0.5", 12.35),
    ("gated", 0): ("shortcut gate, b = 0", 12.86),
    ("none", None): ("none", FAIL),
    ("scaled", 1.0): ("0.5, branch × 1", FAIL),
    ("highway", 0): ("exclusive gate, b = 0", FAIL),
    ("dropout", None): ("dropout 0.5", FAIL),
}
TOLD_BY = {"scaled": "skip.branch_scale", "highway": "skip.gate_bias", "gated": "skip.gate_bias"}


def figure(runs: Sequence[Run]) -> Figure:
    """A row a shortcut, in the paper's order; errors of 20 % and more as 20."""
    canvas, axes = new_figure(5.5, 3.4)
    found: dict[tuple, list[float]] = {key: [] for key in NAMES}
    for run in runs:
        kind = run["skip.kind"]
        found[kind, run[TOLD_BY[kind]] if kind in TOLD_BY else None].append(
            min(error(run, "eval"), FAIL)
        )
    beside_published(
        axes[0, 0], {NAMES[key][0]: values for key, values in found.items()}, dict(NAMES.values())
    )
    axes[0, 0].set(xlabel="test error in %; 20: fail", xlim=(5, 21))
    canvas.suptitle("CIFAR-10, ResNet-110: what is on the shortcut decides", fontsize=9)
    return canvas
