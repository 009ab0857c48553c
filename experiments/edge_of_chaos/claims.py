"""Thresholds of the order-to-chaos transition, set before the runs."""

import math
from collections.abc import Sequence

import numpy as np

from research.diagnosis.verdict import log_profile
from research.records.queries import where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim
from research.theory import mean_field

VARIANCES = (0.5, 1.0, 1.5, 1.76, 2.0, 2.5, 3.0, 4.0)  # σ_w²
BIAS = 0.05  # σ_b²
SETTLED = 12  # layers until the variance is at its fixed point, from that of the input; 38 are measured behind them
SOURCE = "Poole et al. 2016; Schoenholz et al. 2017"


def of_variance(runs: Sequence[Run], variance: float) -> list[Run]:
    """The runs of one σ_w²."""
    return where(runs, {"init.sigma_w": math.sqrt(variance)})


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The factor per layer and the variance at every σ_w², and where the edge lies."""
    return [
        *(_factor(runs, variance) for variance in VARIANCES),
        _variance(runs),
        _edge(),
        _crossing(runs),
    ]


def log_factor(run: Run) -> float:
    """Measured ln of the squared gradient's factor per layer, towards the input, behind the layers that settle."""
    logs = log_profile(run.profiles["signal_grad"][0])[SETTLED:]
    return -float(np.polyfit(np.arange(len(logs)), logs, 1)[0])


def _factor(runs: Sequence[Run], variance: float) -> Claim:
    log_chi = math.log(mean_field.chi_1("tanh", variance, BIAS))
    errors = [log_factor(run) - log_chi for run in of_variance(runs, variance)]
    return claim(
        f"σ_w² = {variance}: ln factor of the squared gradient a layer, minus ln χ₁ = {log_chi:.4f}, mean over seeds",
        source=SOURCE,
        expected="within ±0.02",
        values=errors,
        holds=abs(float(np.mean(errors))) <= 0.02,
    )


def _variance(runs: Sequence[Run]) -> Claim:
    """Mean over layers and seeds: a single layer of 256 units scatters by √(2/256) = 9 % over its weights."""
    errors = []
    for variance in VARIANCES:
        squares = [
            run.profiles["activation_rms"][0, SETTLED:] ** 2 for run in of_variance(runs, variance)
        ]
        errors.append(float(np.mean(squares)) / mean_field.fixed_point("tanh", variance, BIAS) - 1)
    return claim(
        "every σ_w²: variance of the signal over its fixed point q*, minus 1",
        source=SOURCE,
        expected="within ±0.03",
        values=errors,
        holds=max(map(abs, errors)) <= 0.03,
    )


def _edge() -> Claim:
    edge = mean_field.critical_sigma_w2("tanh", BIAS)
    assert edge is not None
    return claim(
        "σ_w² with χ₁ = 1, solved for",
        source=SOURCE,
        expected="1.761 ± 0.002",
        values=[edge],
        holds=abs(edge - 1.761) <= 0.002,
    )


def _crossing(runs: Sequence[Run]) -> Claim:
    """Where the measured factor is 1, on a line between the two variances around it."""
    means = [
        float(np.mean([log_factor(run) for run in of_variance(runs, variance)]))
        for variance in VARIANCES
    ]
    crossing = float(np.interp(0.0, means, VARIANCES))
    return claim(
        "σ_w² with a measured factor of 1, interpolated",
        source=SOURCE,
        expected="1.761 ± 0.1 (0.02 in ln of the factor)",
        values=[crossing],
        holds=abs(crossing - 1.761) <= 0.1,
    )
