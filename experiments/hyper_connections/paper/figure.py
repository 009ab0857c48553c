"""Final losses of language models with one residual stream and with four."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from research.records.queries import final_values, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, new_figure

NAMES = {"identity": "one stream", "hyper": "four, free mixing", "mhc": "four, doubly stochastic"}


def figure(runs: Sequence[Run]) -> Figure:
    """One column for each shortcut, one point for each seed."""
    canvas, axes = new_figure(4.0, 3.0)
    panel = axes[0, 0]
    for column, (kind, colour) in enumerate(zip(NAMES, PALETTE, strict=False)):
        losses = final_values(where(runs, {"skip.kind": kind}), "eval_loss")
        panel.plot([column] * len(losses), losses, "o", color=colour, alpha=0.7)
    panel.set_xticks(range(len(NAMES)), list(NAMES.values()))
    panel.set(
        xlim=(-0.5, len(NAMES) - 0.5),
        ylabel="held-out loss (nats)",
        title="Several residual streams against one",
    )
    return canvas
