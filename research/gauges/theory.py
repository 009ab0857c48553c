"""What mean-field theory expects at initialisation of a network of infinite width; None where it has no number.

Notation: h_{l+1} = s·h_l + a·F(h_l), F(h) = W φ(norm(h)) + b, Var W = σ_w²/n, Var b = σ_b²; q_l is the variance of an
element of h_l, z standard normal. A factor per layer is that of the gradient's squared norm, towards the input.

References:
    Poole et al., Exponential expressivity in deep neural networks through transient chaos, 2016. Schoenholz et al.,
    Deep information propagation, 2017. Yang & Schoenholz, Mean field residual networks, 2017. Yang et al., A mean field
    theory of batch normalization, 2019. Cho & Saul, Kernel methods for deep learning, 2009.
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


expit, ndtr = _special("expit"), _special("ndtr")


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
_HOMOGENEOUS = {"relu": 0.5, "linear": 1.0, "abs": 1.0}  # φ(cx) = cφ(x) for c > 0: name: E φ(z)² = E φ'(z)²

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
def _squares(name: str, q: float) -> tuple[float, float]:
    """E φ(√q·z)² and E φ'(√q·z)²."""
    if name in _HOMOGENEOUS:
        return _HOMOGENEOUS[name] * q, _HOMOGENEOUS[name]
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
    square, slope_square = _squares(name, 1.0)
    return Moments(expectation(NONLINEARITIES[name][0], 1.0), square, slope_square, 1 / square, slope_square / square)


def kappa_0(c: float) -> float:
    """κ₀(c) = (π − arccos c)/π = 2 E φ'(u)φ'(v) for relu, u and v unit normal of correlation c (Cho & Saul 2009)."""
    return (math.pi - math.acos(c)) / math.pi


def kappa_1(c: float) -> float:
    """κ₁(c) = [√(1 − c²) + c(π − arccos c)]/π = 2 E φ(u)φ(v), u and v as in ``kappa_0`` (Cho & Saul 2009)."""
    return (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi


def variance_map(name: str, q: float, sigma_w2: float, sigma_b2: float) -> float:
    """V(q) = σ_w² E φ(√q·z)² + σ_b², the variance one plain layer further (Poole et al. 2016, eq. 3)."""
    return sigma_w2 * _squares(name, q)[0] + sigma_b2


def fixed_point(name: str, sigma_w2: float, sigma_b2: float, start: float = 1.0) -> float:
    """q* = V(q*), the limit of the variance of a plain network whose first is ``start``; it may be 0 or ∞."""
    if name in _HOMOGENEOUS:
        room = 1 - sigma_w2 * _HOMOGENEOUS[name]
        return sigma_b2 / room if room > 0 else start if room == sigma_b2 == 0 else math.inf

    def excess(log_q: float) -> float:
        return math.log(max(variance_map(name, math.exp(log_q), sigma_w2, sigma_b2), 5e-324)) - log_q

    near = math.log(start)
    step = math.copysign(0.5, excess(near))  # V increases: the limit is the first crossing on this side
    while near < 600 and (near > -27 or sigma_b2 > 0):  # with σ_b = 0, 1e-12 is as good as 0
        if excess(near + step) * step <= 0:
            return math.exp(_root(excess, near, near + step))
        near += step
    return math.inf if step > 0 else 0.0


def chi_1(name: str, sigma_w2: float, sigma_b2: float) -> float:
    """χ₁ = σ_w² E φ'(√q*·z)², a plain network's factor per layer at its q* (Poole et al. 2016, eq. 6)."""
    return sigma_w2 * _squares(name, min(fixed_point(name, sigma_w2, sigma_b2), 1e300))[1]


def critical_sigma_w2(name: str, sigma_b2: float) -> float | None:
    """The least σ_w² with χ₁ = 1, the edge of chaos (Schoenholz et al. 2017); None where χ₁ jumps over 1."""
    upper = 0.25
    while chi_1(name, upper, sigma_b2) < 1:
        upper *= 1.25
    root = _root(lambda x: chi_1(name, x, sigma_b2) - 1, upper / 1.25, upper)
    return root if abs(chi_1(name, root, sigma_b2) - 1) < 1e-6 else None  # gelu, silu: q* can leap to ∞


def depth_scale(name: str, sigma_w2: float, sigma_b2: float) -> float:
    """ξ = 1/|ln χ₁|, the layers over which the squared gradient changes by e (Schoenholz et al. 2017); ∞ if χ₁ = 1."""
    chi = chi_1(name, sigma_w2, sigma_b2)
    return math.inf if chi == 1 else 1 / abs(math.log(chi))


def _batch_kappas(activation: str, batch: int) -> tuple[float, float]:
    c = -1 / (batch - 1)  # the correlation of two samples of a normalised batch
    return (kappa_0(c), kappa_1(c)) if activation == "relu" else (1.0, c)


def batch_norm_rate(activation: str, batch: int) -> float | None:
    """The factor per layer deep inside a plain network with batch norm, whatever σ_w and σ_b.

    [κ₀(c) + B − 1]/[(B−3)(1 − κ₁(c))] − 1/(B−3), c = −1/(B−1), for relu; κ₀ = 1, κ₁ = c make it (B−2)/(B−3) for linear
    (Yang et al. 2019, Theorems 7 to 9). None for other nonlinearities, and for B < 4, where the mean diverges.
    """
    if activation not in ("relu", "linear") or batch < 4:
        return None
    k0, k1 = _batch_kappas(activation, batch)
    return (k0 + batch - 1) / ((batch - 3) * (1 - k1)) - 1 / (batch - 3)


def _divisor(variance: float) -> float:
    return variance if variance >= 1e-3 else math.nan  # below, the ε of a norm (1e-5 or less), left out here, is felt


def _layer_norm_factors(name: str, place: str, q: float, w2: float, b2: float, s2: float, a2: float, n: int) -> list:
    """s² + a²d, with d = σ_w² E φ'² taken at the variance that φ sees; ``place`` is empty for no norm.

    A norm sets the variance at its place to 1 and divides the squared gradient by what it was.
    """
    factors = []
    for _ in range(n):
        square, slope = _squares(name, 1.0 if place == "pre" else q)
        f, d = w2 * square + b2, w2 * slope / (_divisor(q) if place == "pre" else 1)
        if place == "branch":
            f, d = 1.0, d / _divisor(f)
        q, factor = s2 * q + a2 * f, s2 + a2 * d
        if place == "post":
            q, factor = 1.0, factor / _divisor(q)
        factors.append(factor)
    return factors


def _batch_norm_factors(name: str, batch: int, q: float, w2: float, b2: float, s2: float, a2: float, n: int) -> list:
    """Batch norm before the branch: Yang et al. 2019, Theorem 8, with a shortcut and from end to end.

    The part t of q that differs between samples grows by a²σ_w² E φ²(1 − κ₁), and a unit's 1/variance has the mean
    B/((B−3)t). The gradients' Gram matrix over the batch has the eigenvalue β on its mean and α elsewhere (diagonal p,
    off it o). The branch's part a²σ_w² E tr[P φ'Πφ' P]/variance, P = 1 − 11ᵀ/B − zzᵀ/B, is without mean.
    """
    (k0, k1), gain = _batch_kappas(name, batch), np.float64(a2 * w2 * _HOMOGENEOUS[name])
    t = [q - b2]  # the embedding's bias is common to all samples
    for _ in range(n - 1):
        t.append(s2 * t[-1] + gain * (1 - k1))
    alpha, beta, factors = 1.0, 1.0, []
    for variance in t[::-1][:n]:
        p, o = ((batch - 1) * alpha + beta) / batch, (beta - alpha) / batch
        branch = gain * batch / ((batch - 3) * _divisor(variance)) * ((batch - 2) * p - (batch - 1) * o * (k0 + k1))
        alpha, beta = s2 * alpha + branch / (batch - 1), s2 * beta
        factors.append(((batch - 1) * alpha + beta) / (batch * p))
        alpha, beta = alpha / factors[-1], beta / factors[-1]
    return factors[::-1]


def predict_profile(
    *,
    activation: str,
    sigma_w2: float,
    sigma_b2: float,
    depth: int,
    q0: float,
    branch_scale: float,
    shortcut_scale: float,
    norm: str,
    placement: str,
    batch: int,
) -> np.ndarray | None:
    """ln(‖∂L/∂h_l‖² / ‖∂L/∂h_N‖²) for l = 0..N, [N+1]: the sum of ln(s² + a² σ_w² E φ'(√q_k·z)²) over k = l..N−1.

    q_{l+1} = s² q_l + a² V(q_l) from ``q0``, the variance of all of h_0, bias included; a is ``branch_scale``, s is
    ``shortcut_scale`` (1 and 0: plain). The cotangent at h_N is random and independent between samples (Poole et al.
    2016; Schoenholz et al. 2017; Yang & Schoenholz 2017). Layer norm at every place follows in the same way. Batch norm
    has a number before the branch, for relu and linear, if the inputs are centred and independent between samples.
    None for all else: other names, numbers that are not finite, and where the ε of a normalisation would be felt.
    """
    numbers = (q0, sigma_w2, sigma_b2, shortcut_scale * shortcut_scale, branch_scale * branch_scale)
    if activation not in NONLINEARITIES or not np.all(np.isfinite(numbers)) or q0 <= 0 or sigma_b2 < 0:
        return None
    with np.errstate(all="ignore"):
        if norm == "none" or (norm == "layer" and placement in ("pre", "branch", "post")):
            factors = _layer_norm_factors(activation, placement if norm == "layer" else "", *numbers, depth)
        elif norm == "batch" and placement == "pre" and batch_norm_rate(activation, batch) is not None:
            factors = _batch_norm_factors(activation, batch, *numbers, depth)
        else:
            return None
        profile = np.cumsum(np.log([1.0, *factors[::-1]]))[::-1]
    return profile if np.all(np.isfinite(profile)) else None


def factor_per_layer(profile: np.ndarray, skip_first: int = 0) -> float:
    """exp(−slope) of the least-squares line through ``profile`` from index ``skip_first`` on; NaN below two points."""
    y = profile[skip_first:]
    return float(np.exp(-np.polyfit(np.arange(len(y)), y, 1)[0])) if len(y) > 1 else math.nan


def finite_width_band(depth: int, width: int) -> tuple[float, float]:
    """Mean −5L/(2n) and standard deviation √(5L/n) of ln(‖∂L/∂h_0‖²/‖∂L/∂h_N‖²) in a plain He ReLU network.

    A layer multiplies by (2/n) Σ_i b_i z_i² with Bernoulli b, of mean 1 and variance (4/n)(3/2 − 1/4) = 5/n; the
    logarithm has the mean −5/(2n) and variance 5/n, and independent layers add up (Hanin & Nica 2020).
    """
    return -2.5 * depth / width, math.sqrt(5 * depth / width)
