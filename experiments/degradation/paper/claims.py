"""Claims about the degradation problem on CIFAR-10; thresholds from the published errors."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from research.records.queries import by_seed, error, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

SOURCE = "He, Zhang, Ren, Sun 2016, Table 6"


@dataclasses.dataclass(frozen=True)
class Published:
    """The test error of a residual network in %, and by how much a measured one may exceed it."""

    error: float
    tolerance: float


PUBLISHED = {  # by layers
    20: Published(8.75, 0.6),
    56: Published(6.97, 0.6),
    110: Published(6.43, 0.8),
}


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Residual test errors against the published ones, then how errors change with depth."""
    residual = {}
    for depth in PUBLISHED:
        residual[depth] = list(errors(runs, "identity", depth, "eval").values())
    close = [_close(depth, values) for depth, values in residual.items()]
    return [*close, _order(residual), _plain(runs)]


def errors(
    runs: Sequence[Run],
    skip: str,
    depth: int,
    split: str,
) -> dict[int, float]:
    """The error in % of each seed.

    Args:
        runs: all runs of the experiment.
        skip: the kind of skip connection.
        depth: the number of layers.
        split: ``train`` or ``eval``.
    """
    group = by_seed(where(runs, {"skip.kind": skip, "model.depth": depth}))
    return {seed: error(run, split) for seed, run in group.items()}


def _close(depth: int, values: Sequence[float]) -> Claim:
    published = PUBLISHED[depth]
    return claim(
        f"ResNet-{depth}: test error in %, mean over seeds",
        source=SOURCE,
        expected=f"≤ {published.error} + {published.tolerance}",
        values=values,
        holds=float(np.mean(values)) <= published.error + published.tolerance,
    )


def _order(residual: dict[int, list[float]]) -> Claim:
    shallow = float(np.mean(residual[20]))
    deep = float(np.mean(residual[56]))
    deepest = float(np.mean(residual[110]))
    return claim(
        "residual networks: mean test error falls from 20 to 56 layers "
        "and does not rise to 110; its steps in %",
        source=SOURCE,
        expected="< 0 and ≤ 0",
        values=[deep - shallow, deepest - deep],
        holds=deep < shallow and deepest <= deep,
    )


def _plain(runs: Sequence[Run]) -> Claim:
    shallow = errors(runs, "none", 20, "train")
    deep = errors(runs, "none", 56, "train")
    values = [deep[seed] - shallow[seed] for seed in deep]
    return claim(
        "plain networks: training error of 56 layers minus that of 20, in %",
        source="He, Zhang, Ren, Sun 2016, Fig. 6",
        expected="> 0 on every seed",
        values=values,
        holds=min(values) > 0,
    )
