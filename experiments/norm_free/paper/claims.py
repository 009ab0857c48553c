"""Thresholds of residual networks without normalisation on CIFAR-10, set before any run."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import error, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

SOURCES = {  # by kind of skip
    "fixup": "Zhang, Dauphin, Ma 2019",
    "skipinit": "De & Smith 2020",
    "rezero": "Bachlechner et al. 2020",
}
DEPTHS = (56, 110)
GAP = 1.5  # points of test error above batch norm's
# Largest test error with batch norm, in per cent; above, that network has not learned enough to be
# compared with.
NORMALISED = 8.5


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The distance of each initialisation from batch norm, at each depth."""
    claims = []
    for kind in SOURCES:
        for depth in DEPTHS:
            claims.append(_claim_gap(runs, kind, depth))
    return claims


def _test_errors(
    runs: Sequence[Run],
    kind: str,
    depth: int,
) -> list[float]:
    group = where(runs, {"skip.kind": kind, "model.depth": depth})
    return [error(run, "eval") for run in group]


def _claim_gap(
    runs: Sequence[Run],
    kind: str,
    depth: int,
) -> Claim:
    normalised = float(np.mean(_test_errors(runs, "identity", depth)))
    gaps = [value - normalised for value in _test_errors(runs, kind, depth)]
    mean_gap = float(np.mean(gaps))
    return claim(
        f"{kind}, {depth} layers, no normalisation: "
        "test error minus that with batch norm, in points, mean over seeds",
        source=SOURCES[kind],
        expected=f"≤ {GAP}, batch norm's being ≤ {NORMALISED} %",
        values=gaps,
        holds=mean_gap <= GAP and normalised <= NORMALISED,
    )
