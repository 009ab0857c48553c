"""Thresholds of ResNet-110 with other shortcuts on CIFAR-10, from the published table."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from research.records.queries import error, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

FAIL = 20.0  # % of test error from which the paper says "fail"
TABLE = "He, Zhang, Ren, Sun 2016 (Identity mappings), Table 1"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: the settings, and the median test error in %, ``FAIL`` for "fail"."""

    settings: Mapping[str, object]
    published: float


ROWS = {
    "identity": Row({"skip.kind": "identity"}, 6.61),
    "none": Row({"skip.kind": "none"}, FAIL),
    "0.5, branch × 1": Row({"skip.kind": "scaled", "skip.branch_scale": 1.0}, FAIL),
    "0.5, branch × 0.5": Row({"skip.kind": "scaled", "skip.branch_scale": 0.5}, 12.35),
    "exclusive gate, b = 0": Row({"skip.kind": "highway", "skip.gate_bias": 0}, FAIL),
    "exclusive gate, b = −6": Row({"skip.kind": "highway", "skip.gate_bias": -6}, 8.70),
    "exclusive gate, b = −7": Row({"skip.kind": "highway", "skip.gate_bias": -7}, 9.81),
    "shortcut gate, b = 0": Row({"skip.kind": "gated", "skip.gate_bias": 0}, 12.86),
    "shortcut gate, b = −6": Row({"skip.kind": "gated", "skip.gate_bias": -6}, 6.91),
    "1×1 convolution": Row({"skip.kind": "projection"}, 12.22),
    "dropout 0.5": Row({"skip.kind": "dropout"}, FAIL),
}


def errors(runs: Sequence[Run], name: str) -> list[float]:
    """Test errors in % by seed, cut at ``FAIL``: how badly a network failed says nothing."""
    group = where(runs, ROWS[name].settings)
    return [min(error(run, "eval"), FAIL) for run in group]


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The order of the table, and what fails."""
    return [
        _claim_order(runs),
        _claim_fails(runs, "0.5, branch × 1"),
        _claim_fails(runs, "dropout 0.5"),
    ]


def _claim_order(runs: Sequence[Run]) -> Claim:
    medians = [float(np.median(errors(runs, name))) for name in ROWS]
    published = [row.published for row in ROWS.values()]
    correlations = np.corrcoef(rankdata(medians), rankdata(published))
    order = float(correlations[0, 1])
    return claim(
        f"rank correlation of the {len(ROWS)} shortcuts' median test errors "
        "with the published ones",
        source=TABLE,
        expected="≥ 0.8",
        values=[order],
        holds=order >= 0.8,
    )


def _claim_fails(runs: Sequence[Run], name: str) -> Claim:
    values = errors(runs, name)
    return claim(
        f"shortcut {name}: test error in %, 20 and more as 20",
        source=TABLE,
        expected="≥ 20, fail, in the median",
        values=values,
        holds=float(np.median(values)) >= FAIL,
    )
