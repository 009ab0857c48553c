"""The judgement of single steps, for charts of how a run came to its verdict."""

import numpy as np

from research.diagnosis.depth import factors_of, kinds_of, log_profile
from research.gauges.table import SIGNAL_GRAD
from research.records.runs import Columns, JsonObject


def judge_steps(profiles: Columns) -> dict[int, JsonObject]:
    """The kind and the factor per layer of each step whose backward signal is finite.

    Args:
        profiles: gauges by name [S, N], with their ``step`` [S].

    Returns:
        By step, ``kind`` and ``factor_per_layer`` as in the verdict, of this step alone.
    """
    signal = np.asarray(profiles[SIGNAL_GRAD.name])
    is_judged = np.isfinite(signal).all(axis=1) & (signal[:, -1] > 0)
    logs = log_profile(signal[is_judged])
    kinds = kinds_of(logs)
    factors = factors_of(logs)
    judged = {}
    for row, step in enumerate(profiles["step"][is_judged].tolist()):
        judged[step] = {"kind": str(kinds[row]), "factor_per_layer": float(factors[row])}
    return judged
