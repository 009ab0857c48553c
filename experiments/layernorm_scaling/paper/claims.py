"""Thresholds of deep language models with three norms, set before any run."""

from collections.abc import Sequence

from research.records.queries import final_by_seed, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim_on_every_seed

DEPTHS = (12, 24, 48)
SETTINGS = {
    "Pre-LN": {"norm.placement": "pre", "norm.scale": "one"},
    "scaled Pre-LN": {"norm.placement": "pre", "norm.scale": "inv_sqrt_layer"},
    "Peri-LN": {"norm.placement": "peri"},
}
SUN = "Sun et al. 2025, Table 1"
KIM = "Kim et al. 2025, Table 1"


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Whether the other norms end below Pre-LN in the deepest network."""
    return [
        _claim_better(runs, "scaled Pre-LN", SUN),
        _claim_better(runs, "Peri-LN", KIM),
    ]


def _claim_better(
    runs: Sequence[Run],
    kind: str,
    source: str,
) -> Claim:
    depth = DEPTHS[-1]
    losses = final_by_seed(where(runs, {**SETTINGS[kind], "model.depth": depth}), "eval_loss")
    usual = final_by_seed(where(runs, {**SETTINGS["Pre-LN"], "model.depth": depth}), "eval_loss")
    differences = [losses[seed] - usual[seed] for seed in losses]
    return claim_on_every_seed(
        f"{depth} blocks: held-out loss with {kind} minus that with Pre-LN, same seed",
        source=source,
        values=differences,
        below=0,
    )
