"""Thresholds of plain tanh convolutional networks of thousands of layers, set before any run."""

from collections.abc import Sequence

from research.records.queries import final, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

DEPTHS = (1250, 5000, 10000)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The training accuracy at every depth."""
    return [_trains(where(runs, {"model.depth": depth}), depth) for depth in DEPTHS]


def _trains(runs: Sequence[Run], depth: int) -> Claim:
    values = [final(run, "train_accuracy") if run.info["status"] == "done" else 0.0 for run in runs]
    return claim(
        f"{depth} layers, delta-orthogonal: training accuracy of the last epoch, 0 for a run that diverged",
        source="Xiao et al. 2018, Fig. 1",
        expected="≥ 0.9 on every seed",
        values=values,
        holds=min(values) >= 0.9,
    )
