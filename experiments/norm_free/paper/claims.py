"""Thresholds of residual networks without normalisation on CIFAR-10, set before any run."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import error, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

KINDS = {
    "fixup": "Zhang, Dauphin, Ma 2019",
    "skipinit": "De & Smith 2020",
    "rezero": "Bachlechner et al. 2020",
}
DEPTHS = (56, 110)
GAP = 1.5  # points of test error above batch norm's
NORMALISED = 8.5  # per cent of test error at most with batch norm, else nothing was trained that could be compared with


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Of each initialisation and depth: the distance from batch norm."""
    return [_gap(runs, kind, depth) for kind in KINDS for depth in DEPTHS]


def _gap(runs: Sequence[Run], kind: str, depth: int) -> Claim:
    normalised, free = (
        [error(run, "eval") for run in where(runs, {"skip.kind": skip, "model.depth": depth})]
        for skip in ("identity", kind)
    )
    values = [value - float(np.mean(normalised)) for value in free]
    return claim(
        f"{kind}, {depth} layers, no normalisation: test error minus that with batch norm, in points, mean over seeds",
        source=KINDS[kind],
        expected=f"≤ {GAP}, batch norm's being ≤ {NORMALISED} %",
        values=values,
        holds=float(np.mean(values)) <= GAP and float(np.mean(normalised)) <= NORMALISED,
    )
