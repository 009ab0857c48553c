"""Claims about the order-to-chaos transition; their thresholds were set before the runs."""

import math
from collections.abc import Sequence

import numpy as np

from research.records.queries import where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, log_factor
from research.theory import mean_field

VARIANCES = (0.5, 1.0, 1.5, 1.76, 2.0, 2.5, 3.0, 4.0)  # σ_w²
BIAS = 0.05  # σ_b²
SETTLED = 12  # layers until the variance is at its fixed point; the 38 after them are judged
SOURCE = "Poole et al. 2016; Schoenholz et al. 2017"


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The factor per layer and the variance at every σ_w², and where the edge lies."""
    factors = [_factor(runs, variance) for variance in VARIANCES]
    return [*factors, _variance(runs), _edge(), _crossing(runs)]


def select_variance(runs: Sequence[Run], variance: float) -> list[Run]:
    """The runs with one σ_w²."""
    return where(runs, {"init.sigma_w": math.sqrt(variance)})


def log_factors(runs: Sequence[Run], variance: float) -> list[float]:
    """For one σ_w²: ln of the measured factor per layer of the squared gradient, by seed."""
    group = select_variance(runs, variance)
    return [log_factor(run, first_layer=SETTLED) for run in group]


def _factor(runs: Sequence[Run], variance: float) -> Claim:
    log_chi = math.log(mean_field.chi_1("tanh", variance, BIAS))
    errors = [measured - log_chi for measured in log_factors(runs, variance)]
    return claim(
        f"σ_w² = {variance}: ln factor of the squared gradient a layer, "
        f"minus ln χ₁ = {log_chi:.4f}, mean over seeds",
        source=SOURCE,
        expected="within ±0.02",
        values=errors,
        holds=abs(float(np.mean(errors))) <= 0.02,
    )


def _variance(runs: Sequence[Run]) -> Claim:
    """The claim judges the mean over layers and seeds.

    The variance in a single layer of 256 units scatters by √(2/256) = 9 % with its weights.
    """
    errors = []
    for variance in VARIANCES:
        squares = []
        for run in select_variance(runs, variance):
            squares.append(run.profiles["activation_rms"][0, SETTLED:] ** 2)
        fixed_point = mean_field.fixed_point("tanh", variance, BIAS)
        errors.append(float(np.mean(squares)) / fixed_point - 1)
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
    means = [float(np.mean(log_factors(runs, variance))) for variance in VARIANCES]
    crossing = float(np.interp(0.0, means, VARIANCES))
    return claim(
        "σ_w² with a measured factor of 1, interpolated",
        source=SOURCE,
        expected="1.761 ± 0.1 (0.02 in ln of the factor)",
        values=[crossing],
        holds=abs(crossing - 1.761) <= 0.1,
    )
