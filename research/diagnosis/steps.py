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
    is_finite = np.isfinite(signal).all(axis=1)
    reaches_layers = signal[:, -1] > 0
    is_judged = is_finite & reaches_layers

    logs = log_profile(signal[is_judged])
    kinds = kinds_of(logs).tolist()
    factors = factors_of(logs).tolist()
    steps = profiles["step"][is_judged].tolist()

    judged = {}
    for step, kind, factor in zip(steps, kinds, factors, strict=True):
        judged[step] = {
            "kind": kind,
            "factor_per_layer": factor,
        }
    return judged
