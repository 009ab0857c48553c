"""Thresholds of the growth laws of residual networks, set before the runs."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from research.diagnosis.verdict import log_profile
from research.records.queries import where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

DEPTHS = (25, 50, 100)
SCALES: dict[str, Callable[[int], float]] = {  # the branch's scale a, of a network of L layers
    "1": lambda depth: 1.0,
    "1/2": lambda depth: 0.5,
    "1/√L": lambda depth: depth**-0.5,
    "1/L": lambda depth: 1 / depth,
}
SETTLED = 50  # tanh: the laws are those of great l
RELU = "Hayou et al. 2021; Marion et al. 2025"
TANH = "Yang & Schoenholz 2017"


def rectifiers(runs: Sequence[Run], scale: str, depth: int) -> list[Run]:
    """The rectifier networks of one depth whose branches have this scale, one a seed."""
    alike = where(runs, {"activation.kind": "relu", "model.depth": depth})
    return [run for run in alike if math.isclose(run["skip.branch_scale"], SCALES[scale](depth))]


def log_ratio(run: Run) -> float:
    """Measured ln of the first layer's squared gradient over the last layer's."""
    return float(log_profile(run.profiles["signal_grad"][0])[0])


def expected(scale: str, depth: int) -> float:
    """L·ln(1 + a²)."""
    return depth * math.log1p(SCALES[scale](depth) ** 2)


def growth(run: Run) -> np.ndarray:
    """Ln of the first layer's squared gradient over that of layer l, [N+1]."""
    logs = log_profile(run.profiles["signal_grad"][0])
    return logs[0] - logs


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The gradient over depth for four scales of rectifier branches, and both laws of tanh branches."""
    tanh = where(runs, {"activation.kind": "tanh"})
    return [
        *(_rectifier(runs, scale) for scale in SCALES),
        _exponent(tanh),
        _coefficient(tanh),
        _variance(tanh),
    ]


def _rectifier(runs: Sequence[Run], scale: str) -> Claim:
    """Mean over seeds: the logarithm of one walks by about √(a²L/n)·2/(1+a²), more for great a."""
    values = []
    holds = []
    for depth in DEPTHS:
        theory = expected(scale, depth)
        errors = [log_ratio(run) - theory for run in rectifiers(runs, scale, depth)]
        values += errors
        holds.append(abs(float(np.mean(errors))) <= 0.05 * theory + 0.15)
    return claim(
        f"ReLU, a = {scale}: ln of the squared gradient, first layer over last, minus L·ln(1 + a²), mean over seeds",
        source=RELU,
        expected="within ±(5 % of theory + 0.15) for L = 25, 50 and 100",
        values=values,
        holds=all(holds),
    )


def _exponent(runs: Sequence[Run]) -> Claim:
    layers = np.arange(SETTLED, runs[0]["model.depth"] + 1)
    values = [
        float(np.polyfit(np.log(layers), np.log(growth(run)[SETTLED:]), 1)[0]) for run in runs
    ]
    return claim(
        "tanh, a = 1: ln of the gradient's growth over l layers goes as a power of l; its exponent, mean over seeds",
        source=TANH,
        expected="0.50 ± 0.06 for l ≥ 50",
        values=values,
        holds=abs(float(np.mean(values)) - 0.5) <= 0.06,
    )


def _coefficient(runs: Sequence[Run]) -> Claim:
    layers = np.arange(SETTLED, runs[0]["model.depth"] + 1)
    values = [float(np.mean(growth(run)[SETTLED:] / np.sqrt(layers))) for run in runs]
    return claim(
        "tanh, a = 1: that logarithm over √l, mean over layers and seeds; theory (8/3)/√(2π) = 1.064",
        source=TANH,
        expected="1.06 ± 0.12 for l ≥ 50",
        values=values,
        holds=abs(float(np.mean(values)) - 1.06) <= 0.12,
    )


def _variance(runs: Sequence[Run]) -> Claim:
    layers = np.arange(SETTLED, runs[0]["model.depth"] + 1)
    shares = [run.profiles["activation_rms"][0, SETTLED:] ** 2 / layers for run in runs]
    values = [float(share[np.argmax(np.abs(share - (0.7 + 1.05) / 2))]) for share in shares]
    return claim(
        "tanh, a = 1: variance of the signal over l, of each seed in the layer farthest from the interval's middle",
        source=TANH,
        expected="within 0.7 to 1.05 for l ≥ 50",
        values=values,
        holds=min(values) >= 0.7 and max(values) <= 1.05,
    )
