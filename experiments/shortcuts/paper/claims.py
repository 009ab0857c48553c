"""Thresholds of ResNet-110 with other shortcuts on CIFAR-10, from the published table."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from research.records.queries import error, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

FAIL = 20.0  # % of test error from which the paper says "fail"
ROWS: dict[
    str, tuple[Mapping[str, object], float]
] = {  # settings, and the published median; FAIL: failed
    "identity": ({"skip.kind": "identity"}, 6.61),
    "none": ({"skip.kind": "none"}, FAIL),
    "0.5, branch × 1": ({"skip.kind": "scaled", "skip.branch_scale": 1.0}, FAIL),
    "0.5, branch × 0.5": ({"skip.kind": "scaled", "skip.branch_scale": 0.5}, 12.35),
    "exclusive gate, b = 0": ({"skip.kind": "highway", "skip.gate_bias": 0}, FAIL),
    "exclusive gate, b = −6": ({"skip.kind": "highway", "skip.gate_bias": -6}, 8.70),
    "exclusive gate, b = −7": ({"skip.kind": "highway", "skip.gate_bias": -7}, 9.81),
    "shortcut gate, b = 0": ({"skip.kind": "gated", "skip.gate_bias": 0}, 12.86),
    "shortcut gate, b = −6": ({"skip.kind": "gated", "skip.gate_bias": -6}, 6.91),
    "1×1 convolution": ({"skip.kind": "projection"}, 12.22),
    "dropout 0.5": ({"skip.kind": "dropout"}, FAIL),
}
TABLE = "He, Zhang, Ren, Sun 2016 (Identity mappings), Table 1"


def errors(runs: Sequence[Run], name: str) -> list[float]:
    """Test errors in % by seed, those above ``FAIL`` as that: how far a failed network is off says nothing."""
    return [min(error(run, "eval"), FAIL) for run in where(runs, ROWS[name][0])]


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The order of the table, and what fails."""
    medians = [float(np.median(errors(runs, name))) for name in ROWS]
    order = float(
        np.corrcoef(rankdata(medians), rankdata([published for _, published in ROWS.values()]))[
            0, 1
        ]
    )
    agreement = claim(
        f"rank correlation of the {len(ROWS)} shortcuts' median test errors with the published ones",
        source=TABLE,
        expected="≥ 0.8",
        values=[order],
        holds=order >= 0.8,
    )
    return [agreement, _fails(runs, "0.5, branch × 1"), _fails(runs, "dropout 0.5")]


def _fails(runs: Sequence[Run], name: str) -> Claim:
    values = errors(runs, name)
    return claim(
        f"shortcut {name}: test error in %, 20 and more as 20",
        source=TABLE,
        expected="≥ 20, fail, in the median",
        values=values,
        holds=float(np.median(values)) >= FAIL,
    )
