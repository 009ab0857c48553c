"""Claims about verdicts on larger and longer runs: those of the smaller benchmark.

The labels are what its definitions say of these records, and the thresholds are its own.
"""

from collections.abc import Sequence

from research.records.runs import Run
from research.reproduce.claims import Claim
from research.reproduce.experiments import load_module

CLAIMS = load_module("verdict_benchmark", "claims")
LABELS = load_module("verdict_benchmark", "labels")
SCORES = load_module("verdict_benchmark", "scores")
KEY = "paper/verdict_benchmark"


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Verdicts against labels, and against whether the runs learned."""
    labels = LABELS.label_runs(runs, KEY)
    judged = SCORES.read_judged(runs, labels, "test")
    return [
        *CLAIMS.claims_on_verdicts(judged),
        CLAIMS.claim_outcome(runs, learns=False),
        CLAIMS.claim_outcome(runs, learns=True),
    ]
