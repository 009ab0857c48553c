"""Thresholds of the degradation problem on CIFAR-10, from the published errors."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import by_seed, error, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

PUBLISHED = {
    20: (8.75, 0.6),
    56: (6.97, 0.6),
    110: (6.43, 0.8),
}  # residual layers: test error in %, and what is allowed
SOURCE = "He, Zhang, Ren, Sun 2016, Table 6"


def errors(runs: Sequence[Run], skip: str, depth: int, split: str = "eval") -> dict[int, float]:
    """By seed."""
    arm = where(runs, {"skip.kind": skip, "model.depth": depth})
    return {seed: error(run, split) for seed, run in by_seed(arm).items()}


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Residual test errors beside the published ones, their order, and the order of plain training errors."""
    residual = {depth: list(errors(runs, "identity", depth).values()) for depth in PUBLISHED}
    return [
        *(_close(depth, values) for depth, values in residual.items()),
        _order(residual),
        _plain(runs),
    ]


def _close(depth: int, values: Sequence[float]) -> Claim:
    published, more = PUBLISHED[depth]
    return claim(
        f"ResNet-{depth}: test error in %, mean over seeds",
        source=SOURCE,
        expected=f"≤ {published} + {more}",
        values=values,
        holds=float(np.mean(values)) <= published + more,
    )


def _order(residual: dict[int, list[float]]) -> Claim:
    shallow, deep, deepest = (float(np.mean(values)) for values in residual.values())
    return claim(
        "residual networks: mean test error falls from 20 to 56 layers and does not rise to 110; its steps in %",
        source=SOURCE,
        expected="< 0 and ≤ 0",
        values=[deep - shallow, deepest - deep],
        holds=deep < shallow and deepest <= deep,
    )


def _plain(runs: Sequence[Run]) -> Claim:
    shallow, deep = (errors(runs, "none", depth, "train") for depth in (20, 56))
    values = [deep[seed] - shallow[seed] for seed in deep]
    return claim(
        "plain networks: training error of 56 layers minus that of 20, in %",
        source="He, Zhang, Ren, Sun 2016, Fig. 6",
        expected="> 0 on every seed",
        values=values,
        holds=min(values) > 0,
    )
