"""Thresholds of the growth laws of residual networks, set before the runs."""

import math
from collections.abc import Sequence

import numpy as np

from research.diagnosis.verdict import log_profile
from research.records.queries import initial_profiles, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

DEPTHS = (25, 50, 100)
SCALES = ("1", "1/2", "1/√L", "1/L")  # of the branch in a network of L layers
SETTLED = 50  # tanh: the laws hold for large l
RELU = "Hayou et al. 2021; Marion et al. 2025"
TANH = "Yang & Schoenholz 2017"


def branch_scale(name: str, depth: int) -> float:
    """The scale a of the branches in a network of ``depth`` layers."""
    scales = {"1": 1.0, "1/2": 0.5, "1/√L": depth**-0.5, "1/L": 1 / depth}
    return scales[name]


def rectifiers(
    runs: Sequence[Run],
    scale: str,
    depth: int,
) -> list[Run]:
    """The rectifier networks of one depth and one branch scale, one for each seed."""
    group = where(runs, {"activation.kind": "relu", "model.depth": depth})
    value = branch_scale(scale, depth)
    return [run for run in group if math.isclose(run["skip.branch_scale"], value)]


def log_ratios(runs: Sequence[Run]) -> list[float]:
    """Measured ln of the first layer's squared gradient over the last layer's, for each run."""
    logs = log_profile(initial_profiles(runs, "signal_grad"))
    return logs[:, 0].tolist()


def expected_log_ratio(scale: str, depth: int) -> float:
    """L·ln(1 + a²)."""
    squared_scale = branch_scale(scale, depth) ** 2
    return depth * math.log1p(squared_scale)


def growth(runs: Sequence[Run]) -> np.ndarray:
    """Ln of the first layer's squared gradient over that of layer l, [runs, N+1]."""
    logs = log_profile(initial_profiles(runs, "signal_grad"))
    return logs[:, :1] - logs


def settled_layers(runs: Sequence[Run]) -> np.ndarray:
    """The layers of the tanh networks in which the laws hold."""
    return np.arange(SETTLED, runs[0]["model.depth"] + 1)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The gradient over depth for four scales of rectifier branches; the laws of tanh branches."""
    rectifier = [_claim_rectifier(runs, scale) for scale in SCALES]
    tanh = where(runs, {"activation.kind": "tanh"})
    return [
        *rectifier,
        _claim_exponent(tanh),
        _claim_coefficient(tanh),
        _claim_variance(tanh),
    ]


def _claim_rectifier(runs: Sequence[Run], scale: str) -> Claim:
    """Mean over seeds: a single logarithm walks by about √(a²L/n)·2/(1+a²), more for large a."""
    values = []
    holds = True
    for depth in DEPTHS:
        theory = expected_log_ratio(scale, depth)
        measured = log_ratios(rectifiers(runs, scale, depth))
        errors = [ratio - theory for ratio in measured]
        tolerance = 0.05 * theory + 0.15
        if abs(float(np.mean(errors))) > tolerance:
            holds = False
        values += errors
    return claim(
        f"ReLU, a = {scale}: ln of the squared gradient, first layer over last, "
        "minus L·ln(1 + a²), mean over seeds",
        source=RELU,
        expected="within ±(5 % of theory + 0.15) for L = 25, 50 and 100",
        values=values,
        holds=holds,
    )


def _claim_exponent(runs: Sequence[Run]) -> Claim:
    log_layers = np.log(settled_layers(runs))
    values = []
    for curve in growth(runs):
        slope = np.polyfit(log_layers, np.log(curve[SETTLED:]), 1)[0]
        values.append(float(slope))
    return claim(
        "tanh, a = 1: ln of the gradient's growth over l layers goes as a power of l; "
        "its exponent, mean over seeds",
        source=TANH,
        expected="0.50 ± 0.06 for l ≥ 50",
        values=values,
        holds=abs(float(np.mean(values)) - 0.5) <= 0.06,
    )


def _claim_coefficient(runs: Sequence[Run]) -> Claim:
    root = np.sqrt(settled_layers(runs))
    values = []
    for curve in growth(runs):
        coefficients = curve[SETTLED:] / root
        values.append(float(np.mean(coefficients)))
    return claim(
        "tanh, a = 1: that logarithm over √l, mean over layers and seeds; "
        "theory (8/3)/√(2π) = 1.064",
        source=TANH,
        expected="1.06 ± 0.12 for l ≥ 50",
        values=values,
        holds=abs(float(np.mean(values)) - 1.06) <= 0.12,
    )


def _claim_variance(runs: Sequence[Run]) -> Claim:
    low = 0.7
    high = 1.05
    middle = (low + high) / 2
    layers = settled_layers(runs)
    values = []
    for rms in initial_profiles(runs, "activation_rms"):
        variance = rms[SETTLED:] ** 2 / layers
        farthest = np.argmax(np.abs(variance - middle))
        values.append(float(variance[farthest]))
    return claim(
        "tanh, a = 1: variance of the signal over l, "
        "of each seed in the layer farthest from the interval's middle",
        source=TANH,
        expected="within 0.7 to 1.05 for l ≥ 50",
        values=values,
        holds=min(values) >= low and max(values) <= high,
    )
