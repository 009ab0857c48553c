"""Thresholds of the placement of layer norm in transformers, set before the runs."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import by_seed, initial_profiles, tabulate_by_seed, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

SETTINGS = {
    "Post-LN": {"skip.kind": "identity", "norm.placement": "post"},
    "Pre-LN": {"skip.kind": "identity", "norm.placement": "pre"},
    "DeepNorm": {"skip.kind": "deepnorm"},
}
DEPTHS = (2, 4, 8, 16, 32)
TRAINED = 10  # blocks of the language models
WARMUP = 100  # steps
# Attention and feed-forward parts alternate among the layers: the first and last feed-forward part.
FIRST = 1
LAST = -1
XIONG = "Xiong et al. 2020, Theorem 1"
XIONG_3 = "Xiong et al. 2020, §3.2"
WANG = "Wang et al. 2022"


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Gradients over depth and between parts, the effect of one step, and which networks train."""
    return [
        *_claim_slopes(runs),
        _claim_mean(
            "Pre-LN, 32 blocks: gradient norm, first feed-forward part over last",
            source=XIONG,
            values=ratios(runs, "Pre-LN"),
            low=3,
        ),
        _claim_mean(
            "DeepNorm, 32 blocks: the same ratio",
            source=WANG,
            values=ratios(runs, "DeepNorm"),
            low=0.9,
            high=1.1,
        ),
        _claim_update(runs),
        *_claim_training(runs),
    ]


def _claim_slopes(runs: Sequence[Run]) -> list[Claim]:
    post = slopes(runs, "Post-LN")
    pre = slopes(runs, "Pre-LN")
    quantity = "gradient norm of the last feed-forward part as a power of depth, 2 to 32 blocks"
    return [
        _claim_mean(
            f"Post-LN: {quantity}; exponent", source=XIONG, values=post, low=-0.1, high=0.25
        ),
        _claim_mean(f"Pre-LN: {quantity}; exponent", source=XIONG, values=pre, low=-0.6, high=-0.3),
        _claim_mean(
            "the first exponent minus the second",
            source=XIONG,
            values=np.subtract(post, pre).tolist(),
            low=0.35,
        ),
    ]


def _last_gradient(run: Run) -> float:
    return float(run.profiles["grad_norm"][0, LAST])


def slopes(runs: Sequence[Run], kind: str) -> list[float]:
    """The exponent of the last part's gradient over depth, by seed."""
    group = where(runs, {**SETTINGS[kind], "train.steps": 1})
    gradients = tabulate_by_seed(group, "model.depth", DEPTHS, _last_gradient)
    exponents = []
    for gradients_of_seed in gradients:
        slope = np.polyfit(np.log(DEPTHS), np.log(gradients_of_seed), 1)[0]
        exponents.append(float(slope))
    return exponents


def ratios(runs: Sequence[Run], kind: str) -> list[float]:
    """The first part's gradient over the last's in the deepest networks."""
    deepest = where(runs, {**SETTINGS[kind], "model.depth": DEPTHS[-1]})
    norms = initial_profiles(deepest, "grad_norm")
    return (norms[:, FIRST] / norms[:, LAST]).tolist()


def _output_change(run: Run) -> float:
    return run.inspections["output_change"][0]


def _claim_update(runs: Sequence[Run]) -> Claim:
    group = where(runs, {**SETTINGS["DeepNorm"], "train.steps": 1})
    changes = tabulate_by_seed(group, "model.depth", DEPTHS, _output_change)
    means = changes.mean(axis=0)
    ratio = float(means.max() / means.min())
    return claim(
        "DeepNorm: what a step of descent changes outputs by, mean over seeds, "
        "greatest over least of 2 to 32 blocks",
        source=f"{WANG}, §4.2",
        expected="≤ 1.15",
        values=[ratio],
        holds=ratio <= 1.15,
    )


def losses(
    runs: Sequence[Run],
    kind: str,
    warmup: int,
) -> np.ndarray:
    """The training loss of the language models over the last tenth of the steps, by seed."""
    group = where(
        runs,
        {**SETTINGS[kind], "model.depth": TRAINED, "optimizer.warmup_steps": warmup},
    )
    run_of_seed = by_seed(group)
    return np.array([final_loss(run_of_seed[seed]) for seed in sorted(run_of_seed)])


def final_loss(run: Run) -> float:
    """The mean training loss of the last tenth of the steps, as single small batches scatter."""
    values = run.metrics["train_loss"]
    num_steps = len(values) // 10
    return float(np.mean(values[-num_steps:]))


def _claim_training(runs: Sequence[Run]) -> list[Claim]:
    post = losses(runs, "Post-LN", 0)
    pre = losses(runs, "Pre-LN", 0)
    post_gain = post - losses(runs, "Post-LN", WARMUP)
    pre_gain = pre - losses(runs, "Pre-LN", WARMUP)
    setting = f"{TRAINED} blocks, Adam, 250 steps"
    return [
        _claim_mean(
            f"{setting}: final loss of Post-LN minus that of Pre-LN, no warm-up",
            source=XIONG_3,
            values=(post - pre).tolist(),
            low=0.4,
        ),
        _claim_mean(
            f"{setting}: what warm-up gains Post-LN minus what it gains Pre-LN",
            source=XIONG_3,
            values=(post_gain - pre_gain).tolist(),
            low=0.05,
        ),
    ]


def _claim_mean(
    statement: str,
    *,
    source: str,
    values: Sequence[float],
    low: float,
    high: float = np.inf,
) -> Claim:
    """The mean over seeds lies in an interval: a single seed's labels move gradients by tenths."""
    mean = float(np.mean(values))
    return claim(
        f"{statement}, mean over seeds",
        source=source,
        expected=f"within {low} to {high}" if np.isfinite(high) else f"≥ {low}",
        values=values,
        holds=low <= mean <= high,
    )
