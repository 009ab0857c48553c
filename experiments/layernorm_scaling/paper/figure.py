"""Final losses of language models over depth, for three norms."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from research.records.queries import final, tabulate_by_seed, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, new_figure, set_ticks
from research.reporting.panels import band

DEPTHS = (12, 24, 48)
SETTINGS = {
    "Pre-LN": {"norm.placement": "pre", "norm.scale": "one"},
    "Pre-LN · $1/\\sqrt{l}$": {"norm.placement": "pre", "norm.scale": "inv_sqrt_layer"},
    "Peri-LN": {"norm.placement": "peri"},
}


def figure(runs: Sequence[Run]) -> Figure:
    """One line for each norm, shaded over seeds."""
    canvas, axes = new_figure(4.0, 3.0)
    panel = axes[0, 0]
    for (name, settings), colour in zip(SETTINGS.items(), PALETTE, strict=False):
        losses = tabulate_by_seed(where(runs, settings), "model.depth", DEPTHS, _final_loss)
        band(panel, DEPTHS, losses, label=name, color=colour, marker="o", markersize=3)
    panel.set(
        xscale="log",
        xlabel="blocks",
        ylabel="held-out loss (nats)",
        title="Norms that keep deep blocks useful",
    )
    set_ticks(panel.xaxis, DEPTHS)
    panel.legend()
    return canvas


def _final_loss(run: Run) -> float:
    return final(run, "eval_loss")
