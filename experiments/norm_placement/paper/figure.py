"""Final losses of language models over depth, for three places of layer norm, with and without warm-up."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from research.records.queries import by_seed, final, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, band, new_figure

KINDS = {
    "Post-LN": ({"skip.kind": "identity", "norm.placement": "post"}, PALETTE[1], "s"),
    "Pre-LN": ({"skip.kind": "identity", "norm.placement": "pre"}, PALETTE[0], "o"),
    "DeepNorm": ({"skip.kind": "deepnorm"}, PALETTE[2], "^"),
}
DEPTHS = (6, 12, 24, 48, 96)
WARMUPS = {0: "no warm-up", 1000: "1000 steps of warm-up"}


def figure(runs: Sequence[Run]) -> Figure:
    """Left without, right with warm-up; what diverged is left out of its line."""
    canvas, axes = new_figure(7.0, 2.9, 1, 2)
    for panel, (warmup, title) in zip(axes[0], WARMUPS.items(), strict=True):
        for name, (settings, colour, marker) in KINDS.items():
            mine = where(runs, {**settings, "optimizer.warmup_steps": warmup})
            grids = [by_seed(where(mine, {"model.depth": depth})) for depth in DEPTHS]
            losses = np.array(
                [[final(grid[seed], "eval_loss") for grid in grids] for seed in grids[0]]
            )
            losses[~np.isfinite(losses)] = np.nan
            keep = np.isfinite(losses).any(axis=0)
            band(
                panel,
                np.array(DEPTHS)[keep],
                losses[:, keep],
                color=colour,
                marker=marker,
                markersize=4,
                label=name,
            )
        entropy = runs[0].info["data"]["unigram_entropy"]
        panel.axhline(
            entropy, color="0.5", linestyle=":", linewidth=0.9, label="entropy of single characters"
        )
        panel.set(xscale="log", xlabel="blocks", title=title)
        panel.set_xticks(DEPTHS, [str(depth) for depth in DEPTHS])
        panel.set_xticks([], minor=True)
    axes[0, 0].set_ylabel("held-out loss (nats)")
    axes[0, 1].legend()
    canvas.suptitle(
        "Deep Post-LN transformers need warm-up; Pre-LN and DeepNorm do not", fontsize=9
    )
    return canvas
