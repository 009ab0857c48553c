"""The judgement of single steps, for charts of how a run came to its verdict."""

import numpy as np

from research.diagnosis.verdict import fit, log_profile
from research.gauges.table import SIGNAL_GRAD
from research.records.runs import Columns, JsonObject


def judge_steps(profiles: Columns) -> dict[int, JsonObject]:
    """The kind and the factor per layer of each step whose backward signal is finite.

    Args:
        profiles: gauges by name [S, N], with their ``step`` [S].

    Returns:
        By step, ``kind`` and ``factor_per_layer`` as in the verdict, of this step alone.
    """
    judged = {}
    for step, signal in zip(profiles["step"].tolist(), profiles[SIGNAL_GRAD.name], strict=True):
        if not np.isfinite(signal).all() or not signal[-1] > 0:
            continue
        fitted = fit(log_profile(signal))
        judged[step] = {"kind": fitted.kind, "factor_per_layer": fitted.factor_per_layer}
    return judged
