"""Thresholds of the placement of layer norm in transformers at initialisation, set before the runs."""

from collections.abc import Sequence

import numpy as np

from research.records.analysis import Run
from research.records.claims import Claim, claim
from research.records.selection import by_seed, where

KINDS = {  # name: settings
    "Post-LN": {"skip.kind": "identity", "norm.placement": "post"},
    "Pre-LN": {"skip.kind": "identity", "norm.placement": "pre"},
    "DeepNorm": {"skip.kind": "deepnorm"},
}
DEPTHS = (2, 4, 8, 16, 32)
FIRST, LAST = 1, -1  # feed-forward parts among the layers, which alternate with attention
XIONG, WANG = "Xiong et al. 2020, Theorem 1", "Wang et al. 2022"


def claims(runs: Sequence[Run]) -> list[Claim]:
    """How the last part's gradient goes with depth, and how it differs from the first's."""
    post, pre = (slopes(runs, kind) for kind in ("Post-LN", "Pre-LN"))
    words = "gradient norm of the last feed-forward part as a power of depth, 2 to 32 blocks"
    return [
        _within(f"Post-LN: {words}; exponent", XIONG, post, -0.1, 0.25),
        _within(f"Pre-LN: {words}; exponent", XIONG, pre, -0.6, -0.3),
        _within("the first exponent minus the second", XIONG, np.subtract(post, pre).tolist(), 0.35, np.inf),
        _within(
            "Pre-LN, 32 blocks: gradient norm, first feed-forward part over last", XIONG, ratios(runs, "Pre-LN"), 3
        ),
        _within("DeepNorm, 32 blocks: the same ratio", WANG, ratios(runs, "DeepNorm"), 0.9, 1.1),
    ]


def slopes(runs: Sequence[Run], kind: str) -> list[float]:
    """The exponent of the last part's gradient over depth, by seed."""
    grids = [by_seed(where(runs, {**KINDS[kind], "model.depth": depth})) for depth in DEPTHS]
    norms = {seed: [float(grid[seed].profiles["grad_norm"][0, LAST]) for grid in grids] for seed in grids[0]}
    return [float(np.polyfit(np.log(DEPTHS), np.log(each), 1)[0]) for each in norms.values()]


def ratios(runs: Sequence[Run], kind: str) -> list[float]:
    """The first part's gradient over the last's in the deepest networks."""
    profiles = [run.profiles["grad_norm"][0] for run in where(runs, {**KINDS[kind], "model.depth": DEPTHS[-1]})]
    return [float(norms[FIRST] / norms[LAST]) for norms in profiles]


def _within(statement: str, source: str, values: Sequence[float], low: float, high: float = np.inf) -> Claim:
    """The mean over seeds: a single seed's labels move its gradients by tenths."""
    expected = f"within {low} to {high}" if np.isfinite(high) else f"≥ {low}"
    holds = low <= float(np.mean(values)) <= high
    words = f"{statement}, mean over seeds"
    return claim(words, source=source, expected=expected, values=values, holds=holds)
