"""The mean-field maps of variance and correlation through plain networks of infinite width, at initialisation.

Notation: h_{l+1} = W φ(h_l) + b, Var W = σ_w²/n, Var b = σ_b²; q_l is the variance of an element of h_l, c_l the
correlation of an element between two inputs, z standard normal.

References:
    Poole et al., Exponential expressivity in deep neural networks through transient chaos, 2016. Schoenholz et al.,
    Deep information propagation, 2017. Cho & Saul, Kernel methods for deep learning, 2009.
"""

import functools
import importlib
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]


def _special(name: str) -> Function:
    """A function of scipy.special, which takes a third of a second to import: not before it is called."""
    return lambda x: getattr(importlib.import_module("scipy.special"), name)(x)


expit = _special("expit")
ndtr = _special("ndtr")


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import root_scalar  # half a second to import

    return float(root_scalar(function, bracket=(low, high), xtol=1e-13).root)


def _density(x: np.ndarray) -> np.ndarray:
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _elu(alpha: float, scale: float) -> tuple[Function, Function]:
    return (
        lambda x: scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        lambda x: scale * np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0))),
    )


NONLINEARITIES: dict[str, tuple[Function, Function]] = {  # name: (φ, φ')
    "relu": (lambda x: np.maximum(x, 0), lambda x: np.where(x > 0, 1.0, 0.0)),
    "tanh": (np.tanh, lambda x: 4 * expit(2 * x) * expit(-2 * x)),  # 1 − tanh² without cancellation
    "sigmoid": (expit, lambda x: expit(x) * expit(-x)),
    "gelu": (lambda x: x * ndtr(x), lambda x: ndtr(x) + x * _density(x)),
    "silu": (lambda x: x * expit(x), lambda x: expit(x) * (1 + x * expit(-x))),
    "elu": _elu(1.0, 1.0),
    "selu": _elu(1.6732632423543772, 1.0507009873554805),  # Klambauer et al. 2017, eq. 14
    "softsign": (lambda x: x / (1 + np.abs(x)), lambda x: (1 + np.abs(x)) ** -2.0),
    "linear": (lambda x: x, np.ones_like),
    "abs": (np.abs, np.sign),
}
HOMOGENEOUS = {
    "relu": 0.5,
    "linear": 1.0,
    "abs": 1.0,
}  # φ(cx) = cφ(x) for c > 0: name: E φ(z)² = E φ'(z)²

# Gauss–Legendre in panels that halve towards 0: there φ(√q·z) bends for great q, and a kink at 0 costs nothing.
_RIGHT = np.concatenate([[0.0], 2.0 ** np.arange(-44, 0), np.arange(1.0, 13.0)])
_EDGES = np.concatenate([-_RIGHT[:0:-1], _RIGHT])
_POINTS, _LENGTHS = np.polynomial.legendre.leggauss(12)
_HALF = np.diff(_EDGES)[:, None] / 2
_NODES = (_EDGES[:-1, None] + _HALF * (1 + _POINTS)).ravel()
_WEIGHTS = (_HALF * _LENGTHS).ravel() * _density(_NODES)


def expectation(f: Function, q: float) -> float:
    """E f(√q·z), to about 1e-12 for q up to 1e24; q = 0 is the limit from above."""
    return float(_WEIGHTS @ f(math.sqrt(max(q, 5e-324)) * _NODES))


@functools.lru_cache(maxsize=4096)
def squares(name: str, q: float) -> tuple[float, float]:
    """E φ(√q·z)² and E φ'(√q·z)², z standard normal."""
    if name in HOMOGENEOUS:
        return HOMOGENEOUS[name] * q, HOMOGENEOUS[name]
    phi, slope = NONLINEARITIES[name]
    return expectation(lambda x: phi(x) ** 2, q), expectation(lambda x: slope(x) ** 2, q)


class Moments(NamedTuple):
    """Gaussian moments of φ at variance 1."""

    mean: float  # E φ(z)
    square: float  # E φ(z)²
    slope_square: float  # E φ'(z)²
    sigma_w2: float  # 1/E φ²: keeps the variance 1 where σ_b = 0
    chi_1: float  # E φ'²/E φ²: the factor per layer there


def moments(name: str) -> Moments:
    """The moments of the nonlinearity ``name``."""
    square, slope_square = squares(name, 1.0)
    return Moments(
        expectation(NONLINEARITIES[name][0], 1.0),
        square,
        slope_square,
        1 / square,
        slope_square / square,
    )


def kappa_0(c: float) -> float:
    """κ₀(c) = (π − arccos c)/π = 2 E φ'(u)φ'(v) for relu, u and v unit normal of correlation c (Cho & Saul 2009)."""
    return (math.pi - math.acos(c)) / math.pi


def kappa_1(c: float) -> float:
    """κ₁(c) = [√(1 − c²) + c(π − arccos c)]/π = 2 E φ(u)φ(v), u and v as in ``kappa_0`` (Cho & Saul 2009)."""
    return (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi


def variance_map(name: str, q: float, sigma_w2: float, sigma_b2: float) -> float:
    """V(q) = σ_w² E φ(√q·z)² + σ_b², the variance one plain layer further (Poole et al. 2016, eq. 3)."""
    return sigma_w2 * squares(name, q)[0] + sigma_b2


def fixed_point(name: str, sigma_w2: float, sigma_b2: float, start: float = 1.0) -> float:
    """q* = V(q*), the limit of the variance of a plain network whose first is ``start``; it may be 0 or ∞."""
    if name in HOMOGENEOUS:
        room = 1 - sigma_w2 * HOMOGENEOUS[name]
        return sigma_b2 / room if room > 0 else start if room == sigma_b2 == 0 else math.inf

    def excess(log_q: float) -> float:
        return (
            math.log(max(variance_map(name, math.exp(log_q), sigma_w2, sigma_b2), 5e-324)) - log_q
        )

    near = math.log(start)
    step = math.copysign(
        0.5, excess(near)
    )  # V increases: the limit is the first crossing on this side
    while near < 600 and (near > -27 or sigma_b2 > 0):  # with σ_b = 0, 1e-12 is as good as 0
        if excess(near + step) * step <= 0:
            return math.exp(_root(excess, near, near + step))
        near += step
    return math.inf if step > 0 else 0.0


def chi_1(name: str, sigma_w2: float, sigma_b2: float) -> float:
    """χ₁ = σ_w² E φ'(√q*·z)², a plain network's factor per layer at its q* (Poole et al. 2016, eq. 6)."""
    return sigma_w2 * squares(name, min(fixed_point(name, sigma_w2, sigma_b2), 1e300))[1]


def critical_sigma_w2(name: str, sigma_b2: float) -> float | None:
    """The least σ_w² with χ₁ = 1, the edge of chaos (Schoenholz et al. 2017); None where χ₁ jumps over 1."""
    upper = 0.25
    while chi_1(name, upper, sigma_b2) < 1:
        upper *= 1.25
    root = _root(lambda x: chi_1(name, x, sigma_b2) - 1, upper / 1.25, upper)
    return (
        root if abs(chi_1(name, root, sigma_b2) - 1) < 1e-6 else None
    )  # gelu, silu: q* can leap to ∞


def depth_scale(name: str, sigma_w2: float, sigma_b2: float) -> float:
    """ξ = 1/|ln χ₁|, the layers over which the squared gradient changes by e (Schoenholz et al. 2017); ∞ if χ₁ = 1."""
    chi = chi_1(name, sigma_w2, sigma_b2)
    return math.inf if chi == 1 else 1 / abs(math.log(chi))


def correlation_map(name: str, c: float, sigma_w2: float, sigma_b2: float) -> float:
    """C(c) = (σ_w² E φ(u)φ(v) + σ_b²)/q* one plain layer further; u, v have variance q* and correlation c.

    The map of Poole et al. 2016, eq. 5, where the variance has reached its fixed point.
    """
    q = fixed_point(name, sigma_w2, sigma_b2)
    return (sigma_w2 * _pairs(NONLINEARITIES[name][0], q, c) + sigma_b2) / q


def correlation_slope(name: str, c: float, sigma_w2: float, sigma_b2: float) -> float:
    """C'(c) = σ_w² E φ'(u)φ'(v), u and v as in ``correlation_map``; χ₁ at c = 1 (Poole et al. 2016, eq. 6)."""
    return sigma_w2 * _pairs(NONLINEARITIES[name][1], fixed_point(name, sigma_w2, sigma_b2), c)


def correlation_depth_scale(name: str, sigma_w2: float, sigma_b2: float) -> float:
    """ξ_c = −1/ln C'(c*), the layers over which two inputs lose a factor e of their difference from c* = C(c*).

    c* is 1 up to the edge of chaos and less beyond it (Schoenholz et al. 2017, eq. 9); ∞ on the edge.
    """
    chi = chi_1(name, sigma_w2, sigma_b2)
    if chi <= 1:
        return math.inf if chi == 1 else -1 / math.log(chi)
    c = _root(lambda c: correlation_map(name, c, sigma_w2, sigma_b2) - c, 0.0, 1 - 1e-7)
    return -1 / math.log(correlation_slope(name, c, sigma_w2, sigma_b2))


def _pairs(f: Function, q: float, c: float) -> float:
    """E f(u)f(v) for u, v of variance q and correlation c: over z in panels, over the rest by Gauss–Hermite."""
    rest, weights = np.polynomial.hermite_e.hermegauss(80)
    inner = (
        f(math.sqrt(q) * (c * _NODES[:, None] + math.sqrt(1 - c * c) * rest))
        @ weights
        / math.sqrt(2 * math.pi)
    )
    return float(_WEIGHTS @ (f(math.sqrt(q) * _NODES) * inner))
