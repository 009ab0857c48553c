"""Thresholds of the critical variance of rectifier networks, set before the runs."""

import math
from collections.abc import Sequence

import numpy as np

from research.diagnosis.verdict import log_profile
from research.records.queries import by_seed, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

VARIANCES = (1, 2, 3)  # σ_w²
HE = "He, Zhang, Ren, Sun 2015, eq. 14"


def of_variance(runs: Sequence[Run], variance: float) -> list[Run]:
    """The runs of one σ_w²."""
    return where(runs, {"init.sigma_w": math.sqrt(variance)})


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Factors per layer backward and forward, and the exact distance between the curves."""
    backward = [_slope(runs, variance) for variance in VARIANCES]
    return [
        *backward,
        _every_seed(runs),
        _exact(runs, "signal_grad"),
        _exact(runs, "activation_rms"),
    ]


def _errors(runs: Sequence[Run], variance: float) -> list[float]:
    """Measured minus predicted logarithm of the factor per layer, by seed."""
    factors = [
        run.info["verdict"]["initial"]["factor_per_layer"] for run in of_variance(runs, variance)
    ]
    return [math.log(factor) - math.log(variance / 2) for factor in factors]


def _slope(runs: Sequence[Run], variance: float) -> Claim:
    errors = _errors(runs, variance)
    return claim(
        f"σ_w² = {variance}: ln factor of the squared gradient a layer, minus ln σ_w²/2, mean over seeds",
        source=HE,
        expected="within ±0.02",
        values=errors,
        holds=abs(float(np.mean(errors))) <= 0.02,
    )


def _every_seed(runs: Sequence[Run]) -> Claim:
    """The walk of the logarithm over 50 layers at width 256 gives a slope with a deviation of about 0.02."""
    errors = [error for variance in VARIANCES for error in _errors(runs, variance)]
    return claim(
        "the same for every seed and σ_w²",
        source=f"{HE}; finite width: Hanin & Nica 2020",
        expected="within ±0.05",
        values=errors,
        holds=max(map(abs, errors)) <= 0.05,
    )


def _steps(run: Run, gauge: str) -> np.ndarray:
    """What each layer adds to ln of the squared norm, in the direction that the signal goes."""
    steps = np.diff(log_profile(run.profiles[gauge][0]))
    return -steps if gauge == "signal_grad" else steps


def _exact(runs: Sequence[Run], gauge: str) -> Claim:
    """Rectifiers are homogeneous: the same draw times another σ_w has the same gates."""
    errors = []
    for low, high in ((1, 2), (2, 3)):
        lower, higher = (by_seed(of_variance(runs, variance)) for variance in (low, high))
        for seed, run in lower.items():
            between = _steps(higher[seed], gauge) - _steps(run, gauge)
            errors.append(float(np.max(np.abs(between - math.log(high / low)))))
    return claim(
        f"{gauge} of one seed: what a layer adds to ln of the square differs by ln 2 and ln 3/2 between σ_w² = 1, 2, 3",
        source="homogeneity of rectifiers",
        expected="exactly: largest deviation ≤ 1e-5",
        values=errors,
        holds=max(errors) <= 1e-5,
    )
