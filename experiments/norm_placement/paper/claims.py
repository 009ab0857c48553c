"""Thresholds of deep language models with three places of layer norm, set before any run."""

from collections.abc import Sequence

from research.records.queries import final, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

SETTINGS = {
    "Post-LN": {"skip.kind": "identity", "norm.placement": "post"},
    "Pre-LN": {"skip.kind": "identity", "norm.placement": "pre"},
    "DeepNorm": {"skip.kind": "deepnorm"},
}
DEPTHS = (6, 12, 24, 48, 96)
# of the entropy of single characters, the loss of the best guess that ignores the context
STALLED = 0.9
LEARNED = 0.75
LARGEST = 10.0  # is shown for every larger share
XIONG = "Xiong et al. 2020, §3.2"
WANG = "Wang et al. 2022"


def shares(
    runs: Sequence[Run],
    kind: str,
    depth: int,
) -> list[float]:
    """The final held-out loss without warm-up over the entropy of single characters, by seed.

    A run that diverged has an infinite share.
    """
    group = where(
        runs,
        {**SETTINGS[kind], "model.depth": depth, "optimizer.warmup_steps": 0},
    )
    values = []
    for run in group:
        entropy = run.info["data"]["unigram_entropy"]
        values.append(final(run, "eval_loss") / entropy)
    return values


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Without warm-up: which networks stall, and which learn."""
    return [
        _claim_stalls(runs),
        _claim_learns(runs, "Pre-LN", XIONG),
        _claim_learns(runs, "DeepNorm", WANG),
    ]


def _claim_stalls(runs: Sequence[Run]) -> Claim:
    depth = DEPTHS[-1]
    values = shares(runs, "Post-LN", depth)
    return claim(
        f"Post-LN, {depth} blocks, no warm-up: held-out loss over the entropy of single characters",
        source=XIONG,
        expected=f"≥ {STALLED} on every seed, infinite where it diverged",
        values=_cut(values),
        holds=min(values) >= STALLED,
    )


def _claim_learns(
    runs: Sequence[Run],
    kind: str,
    source: str,
) -> Claim:
    values = []
    for depth in DEPTHS:
        values += shares(runs, kind, depth)
    return claim(
        f"{kind}, {DEPTHS[0]} to {DEPTHS[-1]} blocks, no warm-up: "
        "held-out loss over the entropy of single characters",
        source=source,
        expected=f"≤ {LEARNED} at every depth on every seed",
        values=_cut(values),
        holds=max(values) <= LEARNED,
    )


def _cut(values: Sequence[float]) -> list[float]:
    return [min(value, LARGEST) for value in values]
