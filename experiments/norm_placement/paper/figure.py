"""Final losses of language models over depth, for three places of layer norm."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import final, tabulate_by_seed, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, new_figure, set_ticks
from research.reporting.panels import band

SETTINGS = {
    "Post-LN": {"skip.kind": "identity", "norm.placement": "post"},
    "Pre-LN": {"skip.kind": "identity", "norm.placement": "pre"},
    "DeepNorm": {"skip.kind": "deepnorm"},
}
STYLES: dict[str, dict[str, Any]] = {
    "Post-LN": {"color": PALETTE[1], "marker": "s", "markersize": 4},
    "Pre-LN": {"color": PALETTE[0], "marker": "o", "markersize": 4},
    "DeepNorm": {"color": PALETTE[2], "marker": "^", "markersize": 4},
}
DEPTHS = (6, 12, 24, 48, 96)


def figure(runs: Sequence[Run]) -> Figure:
    """Left without, right with warm-up; a run that diverged is left out of its line."""
    canvas, axes = new_figure(7.0, 2.9, 1, 2)
    left = axes[0, 0]
    right = axes[0, 1]
    _draw_losses(left, where(runs, {"optimizer.warmup_steps": 0}))
    _draw_losses(right, where(runs, {"optimizer.warmup_steps": 1000}))
    left.set_title("no warm-up")
    right.set_title("1000 steps of warm-up")
    left.set_ylabel("held-out loss (nats)")
    right.legend()
    canvas.suptitle(
        "Deep Post-LN transformers need warm-up; Pre-LN and DeepNorm do not", fontsize=9
    )
    return canvas


def _draw_losses(axes: Axes, runs: Sequence[Run]) -> None:
    for name, settings in SETTINGS.items():
        losses = tabulate_by_seed(where(runs, settings), "model.depth", DEPTHS, _final_loss)
        losses[~np.isfinite(losses)] = np.nan
        has_value = np.isfinite(losses).any(axis=0)
        depths = np.array(DEPTHS)[has_value]
        band(axes, depths, losses[:, has_value], label=name, **STYLES[name])
    entropy = runs[0].info["data"]["unigram_entropy"]
    axes.axhline(
        entropy,
        color="0.5",
        linestyle=":",
        linewidth=0.9,
        label="entropy of single characters",
    )
    axes.set(xscale="log", xlabel="blocks")
    set_ticks(axes.xaxis, DEPTHS)


def _final_loss(run: Run) -> float:
    return final(run, "eval_loss")
