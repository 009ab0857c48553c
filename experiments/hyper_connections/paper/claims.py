"""Thresholds of language models with several residual streams, set before any run."""

from collections.abc import Sequence

from research.records.queries import final_by_seed, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim_on_every_seed

XIE = "Xie et al. 2025, Table 4"
ZHU = "Zhu et al. 2024, Table 1"


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Whether several streams end at a lower loss than one."""
    return [
        _claim_better(runs, "mhc", XIE),
        _claim_better(runs, "hyper", ZHU),
    ]


def _claim_better(
    runs: Sequence[Run],
    kind: str,
    source: str,
) -> Claim:
    losses = final_by_seed(where(runs, {"skip.kind": kind}), "eval_loss")
    usual = final_by_seed(where(runs, {"skip.kind": "identity"}), "eval_loss")
    differences = [losses[seed] - usual[seed] for seed in losses]
    return claim_on_every_seed(
        f"held-out loss with skip={kind} minus that with one stream, same seed",
        source=source,
        values=differences,
        below=0,
    )
