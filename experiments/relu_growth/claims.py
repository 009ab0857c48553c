"""Thresholds of the critical variance of rectifier networks, set before the runs."""

import math
from collections.abc import Sequence

import numpy as np

from research.diagnosis.verdict import log_profile
from research.records.queries import by_seed, initial_factors, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

VARIANCES = (1, 2, 3)  # σ_w²
HE = "He, Zhang, Ren, Sun 2015, eq. 14"


def of_variance(runs: Sequence[Run], variance: float) -> list[Run]:
    """The runs of one σ_w²."""
    return where(runs, {"init.sigma_w": math.sqrt(variance)})


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Factors per layer backward and forward, and the exact distance between the curves."""
    slopes = [_claim_slope(runs, variance) for variance in VARIANCES]
    return [
        *slopes,
        _claim_slope_of_every_seed(runs),
        _claim_exact_distance(runs, "signal_grad"),
        _claim_exact_distance(runs, "activation_rms"),
    ]


def _errors(runs: Sequence[Run], variance: float) -> list[float]:
    """Measured minus predicted logarithm of the factor per layer, by seed."""
    predicted = math.log(variance / 2)
    errors = []
    for factor in initial_factors(of_variance(runs, variance)):
        errors.append(math.log(factor) - predicted)
    return errors


def _claim_slope(runs: Sequence[Run], variance: float) -> Claim:
    errors = _errors(runs, variance)
    mean_error = float(np.mean(errors))
    return claim(
        f"σ_w² = {variance}: ln factor of the squared gradient a layer, "
        "minus ln σ_w²/2, mean over seeds",
        source=HE,
        expected="within ±0.02",
        values=errors,
        holds=abs(mean_error) <= 0.02,
    )


def _claim_slope_of_every_seed(runs: Sequence[Run]) -> Claim:
    """Over 50 layers of width 256 the logarithm walks; its slope deviates by about 0.02."""
    errors = []
    for variance in VARIANCES:
        errors += _errors(runs, variance)
    return claim(
        "the same for every seed and σ_w²",
        source=f"{HE}; finite width: Hanin & Nica 2020",
        expected="within ±0.05",
        values=errors,
        holds=max(map(abs, errors)) <= 0.05,
    )


def _increments(run: Run, gauge: str) -> np.ndarray:
    """What each layer adds to ln of the squared norm, in the direction that the signal travels."""
    increments = np.diff(log_profile(run.profiles[gauge][0]))
    return -increments if gauge == "signal_grad" else increments


def _claim_exact_distance(runs: Sequence[Run], gauge: str) -> Claim:
    """Rectifiers are homogeneous: the same weights times another σ_w have the same gates."""
    errors = []
    for low, high in ((1, 2), (2, 3)):
        lower = by_seed(of_variance(runs, low))
        higher = by_seed(of_variance(runs, high))
        distance = math.log(high / low)
        for seed, run in lower.items():
            measured = _increments(higher[seed], gauge) - _increments(run, gauge)
            deviations = np.abs(measured - distance)
            errors.append(float(np.max(deviations)))
    return claim(
        f"{gauge} of one seed: what a layer adds to ln of the square "
        "differs by ln 2 and ln 3/2 between σ_w² = 1, 2, 3",
        source="homogeneity of rectifiers",
        expected="exactly: largest deviation ≤ 1e-5",
        values=errors,
        holds=max(errors) <= 1e-5,
    )
