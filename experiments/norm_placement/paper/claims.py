"""Thresholds of deep language models with three places of layer norm, set before any run."""

from collections.abc import Sequence

from research.records.queries import final, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

KINDS = {  # name: settings
    "Post-LN": {"skip.kind": "identity", "norm.placement": "post"},
    "Pre-LN": {"skip.kind": "identity", "norm.placement": "pre"},
    "DeepNorm": {"skip.kind": "deepnorm"},
}
DEPTHS = (6, 12, 24, 48, 96)
# of the entropy of single characters, the loss of the best guess that ignores the context
STALLED = 0.9
LEARNED = 0.75
XIONG = "Xiong et al. 2020, §3.2"
WANG = "Wang et al. 2022"


def shares(runs: Sequence[Run], kind: str, depth: int, warmup: int) -> list[float]:
    """The final held-out loss over the entropy of single characters, by seed; infinite for a run that diverged."""
    group = where(runs, {**KINDS[kind], "model.depth": depth, "optimizer.warmup_steps": warmup})
    return [final(run, "eval_loss") / run.info["data"]["unigram_entropy"] for run in group]


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Without warm-up: who stalls, who learns."""
    return [_stalls(runs), _learns(runs, "Pre-LN", XIONG), _learns(runs, "DeepNorm", WANG)]


def _stalls(runs: Sequence[Run]) -> Claim:
    values = shares(runs, "Post-LN", DEPTHS[-1], 0)
    return claim(
        f"Post-LN, {DEPTHS[-1]} blocks, no warm-up: held-out loss over the entropy of single characters",
        source=XIONG,
        expected=f"≥ {STALLED} on every seed, infinite where it diverged",
        values=[min(value, 10.0) for value in values],
        holds=min(values) >= STALLED,
    )


def _learns(runs: Sequence[Run], kind: str, source: str) -> Claim:
    values = [value for depth in DEPTHS for value in shares(runs, kind, depth, 0)]
    return claim(
        f"{kind}, {DEPTHS[0]} to {DEPTHS[-1]} blocks, no warm-up: held-out loss over the entropy of single characters",
        source=source,
        expected=f"≤ {LEARNED} at every depth on every seed",
        values=[min(value, 10.0) for value in values],
        holds=max(values) <= LEARNED,
    )
