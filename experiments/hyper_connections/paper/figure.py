"""Final losses of language models with four residual streams, relative to those with one."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from research.records.queries import final, tabulate_by_seed
from research.records.runs import Run
from research.reporting.figures import PALETTE, new_figure

ONE_STREAM = "identity"
NAMES = {"hyper": "four, free mixing", "mhc": "four, doubly stochastic"}


def figure(runs: Sequence[Run]) -> Figure:
    """One column for each kind of mixing, one point for each seed."""
    canvas, axes = new_figure(4.0, 3.0)
    panel = axes[0, 0]
    losses = tabulate_by_seed(runs, "skip.kind", [ONE_STREAM, *NAMES], _final_loss)
    differences = losses[:, 1:] - losses[:, :1]
    panel.axhline(0, color="0.4", linewidth=1)
    for column, colour in zip(range(len(NAMES)), PALETTE[1:], strict=False):
        panel.plot([column] * len(losses), differences[:, column], "o", color=colour)
    panel.set_xticks(range(len(NAMES)), list(NAMES.values()))
    panel.set(
        xlim=(-0.5, len(NAMES) - 0.5),
        ylabel="held-out loss minus that\nwith one stream, same seed (nats)",
        title="Several residual streams against one",
    )
    return canvas


def _final_loss(run: Run) -> float:
    return final(run, "eval_loss")
