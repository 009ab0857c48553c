"""Thresholds of the placement of layer norm in transformers, at initialisation and in training, set before the runs."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import by_seed, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

KINDS = {  # name: settings
    "Post-LN": {"skip.kind": "identity", "norm.placement": "post"},
    "Pre-LN": {"skip.kind": "identity", "norm.placement": "pre"},
    "DeepNorm": {"skip.kind": "deepnorm"},
}
DEPTHS = (2, 4, 8, 16, 32)
TRAINED = 10  # blocks
WARMUP = 100  # steps
# feed-forward parts among the layers, which alternate with attention
FIRST = 1
LAST = -1
XIONG = "Xiong et al. 2020, Theorem 1"
XIONG_3 = "Xiong et al. 2020, §3.2"
WANG = "Wang et al. 2022"


def claims(runs: Sequence[Run]) -> list[Claim]:
    """How the last part's gradient goes with depth, how it differs from the first's; what a step moves; who trains."""
    post, pre = (slopes(runs, kind) for kind in ("Post-LN", "Pre-LN"))
    words = "gradient norm of the last feed-forward part as a power of depth, 2 to 32 blocks"
    return [
        _within(f"Post-LN: {words}; exponent", XIONG, post, -0.1, 0.25),
        _within(f"Pre-LN: {words}; exponent", XIONG, pre, -0.6, -0.3),
        _within(
            "the first exponent minus the second",
            XIONG,
            np.subtract(post, pre).tolist(),
            0.35,
            np.inf,
        ),
        _within(
            "Pre-LN, 32 blocks: gradient norm, first feed-forward part over last",
            XIONG,
            ratios(runs, "Pre-LN"),
            3,
        ),
        _within("DeepNorm, 32 blocks: the same ratio", WANG, ratios(runs, "DeepNorm"), 0.9, 1.1),
        _update(runs),
        *_training(runs),
    ]


def slopes(runs: Sequence[Run], kind: str) -> list[float]:
    """The exponent of the last part's gradient over depth, by seed."""
    grids = [by_seed(where(runs, {**KINDS[kind], "model.depth": depth})) for depth in DEPTHS]
    norms = {
        seed: [float(grid[seed].profiles["grad_norm"][0, LAST]) for grid in grids]
        for seed in grids[0]
    }
    return [float(np.polyfit(np.log(DEPTHS), np.log(each), 1)[0]) for each in norms.values()]


def ratios(runs: Sequence[Run], kind: str) -> list[float]:
    """The first part's gradient over the last's in the deepest networks."""
    profiles = [
        run.profiles["grad_norm"][0]
        for run in where(runs, {**KINDS[kind], "model.depth": DEPTHS[-1]})
    ]
    return [float(norms[FIRST] / norms[LAST]) for norms in profiles]


def changes(runs: Sequence[Run], kind: str) -> np.ndarray:
    """What one step of gradient descent changes the outputs by, root mean square, by seed and depth."""
    grids = [by_seed(where(runs, {**KINDS[kind], "model.depth": depth})) for depth in DEPTHS]
    return np.array(
        [
            [grid[seed].inspections["output_change"][0] for grid in grids]
            for seed in sorted(grids[0])
        ]
    )


def _update(runs: Sequence[Run]) -> Claim:
    means = changes(runs, "DeepNorm").mean(axis=0)
    ratio = float(means.max() / means.min())
    return claim(
        "DeepNorm: what a step of descent changes outputs by, mean over seeds, greatest over least of 2 to 32 blocks",
        source=f"{WANG}, §4.2",
        expected="≤ 1.15",
        values=[ratio],
        holds=ratio <= 1.15,
    )


def losses(runs: Sequence[Run], kind: str, warmup: int) -> np.ndarray:
    """The training loss of the language models over the last tenth of the steps, by seed."""
    settings = {**KINDS[kind], "model.depth": TRAINED, "optimizer.warmup_steps": warmup}
    grid = by_seed(where(runs, settings))
    return np.array([last(grid[seed]) for seed in sorted(grid)])


def last(run: Run) -> float:
    """The mean training loss of the last tenth of the steps: single batches of so few characters scatter."""
    values = run.metrics["train_loss"]
    return float(np.mean(values[-(len(values) // 10) :]))


def _training(runs: Sequence[Run]) -> list[Claim]:
    without = losses(runs, "Post-LN", 0) - losses(runs, "Pre-LN", 0)
    gains = [losses(runs, kind, 0) - losses(runs, kind, WARMUP) for kind in ("Post-LN", "Pre-LN")]
    words = f"{TRAINED} blocks, Adam, 250 steps: "
    return [
        _within(
            f"{words}final loss of Post-LN minus that of Pre-LN, no warm-up",
            XIONG_3,
            without.tolist(),
            0.4,
        ),
        _within(
            f"{words}what warm-up gains Post-LN minus what it gains Pre-LN",
            XIONG_3,
            (gains[0] - gains[1]).tolist(),
            0.05,
        ),
    ]


def _within(
    statement: str, source: str, values: Sequence[float], low: float, high: float = np.inf
) -> Claim:
    """The mean over seeds: a single seed's labels move its gradients by tenths."""
    expected = f"within {low} to {high}" if np.isfinite(high) else f"≥ {low}"
    holds = low <= float(np.mean(values)) <= high
    words = f"{statement}, mean over seeds"
    return claim(words, source=source, expected=expected, values=values, holds=holds)
