"""Claims about tanh convolutional networks of thousands of layers, set before any run."""

from collections.abc import Sequence

from research.records.queries import final, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

DEPTHS = (1250, 5000, 10000)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The training accuracy at every depth."""
    return [_trains(runs, depth) for depth in DEPTHS]


def _trains(runs: Sequence[Run], depth: int) -> Claim:
    accuracies = []
    for run in where(runs, {"model.depth": depth}):
        is_done = run.info["status"] == "done"
        accuracies.append(final(run, "train_accuracy") if is_done else 0.0)
    return claim(
        f"{depth} layers, delta-orthogonal: training accuracy of the last epoch, "
        "0 for a run that diverged",
        source="Xiao et al. 2018, Fig. 1",
        expected="≥ 0.9 on every seed",
        values=accuracies,
        holds=min(accuracies) >= 0.9,
    )
