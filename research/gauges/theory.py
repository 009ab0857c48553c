"""What mean-field theory expects of a network of infinite width at initialisation.

Notation: h_{l+1} = s·h_l + a·F(h_l) with F(h) = W φ(norm(h)) + b, Var W = σ_w²/n, Var b = σ_b²; q_l is the variance of
an element of h_l, z a standard normal number. A factor per layer is that of the squared norm, towards the input.
``None`` means that theory has no number for a configuration. Only NumPy and SciPy in float64, nothing of the network.

References:
    Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli, Exponential expressivity in deep neural networks through transient
    chaos, 2016. Schoenholz, Gilmer, Ganguli, Sohl-Dickstein, Deep information propagation, 2017. Yang & Schoenholz,
    Mean field residual networks, 2017. Yang, Pennington, Rao, Sohl-Dickstein, Schoenholz, A mean field theory of
    batch normalization, 2019.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.optimize import brentq
from scipy.special import erf, expit

Function = Callable[[np.ndarray], np.ndarray]
_SELU, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017, eq. 14


def _cumulative(x: np.ndarray) -> np.ndarray:
    return (1 + erf(x / math.sqrt(2))) / 2


def _density(x: np.ndarray) -> np.ndarray:
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _elu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _elu_slope(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    return np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0)))


NONLINEARITIES: dict[str, tuple[Function, Function]] = {  # name: (φ, φ')
    "relu": (lambda x: np.maximum(x, 0), lambda x: np.where(x > 0, 1.0, 0.0)),
    "tanh": (np.tanh, lambda x: 4 * expit(2 * x) * expit(-2 * x)),  # 1 − tanh² without cancellation
    "sigmoid": (expit, lambda x: expit(x) * expit(-x)),
    "gelu": (lambda x: x * _cumulative(x), lambda x: _cumulative(x) + x * _density(x)),
    "silu": (lambda x: x * expit(x), lambda x: expit(x) * (1 + x * expit(-x))),
    "elu": (_elu, _elu_slope),
    "selu": (lambda x: _SELU_SCALE * _elu(x, _SELU), lambda x: _SELU_SCALE * _elu_slope(x, _SELU)),
    "softsign": (lambda x: x / (1 + np.abs(x)), lambda x: (1 + np.abs(x)) ** -2.0),
    "linear": (lambda x: x, np.ones_like),
    "abs": (np.abs, np.sign),
}
_HOMOGENEOUS = {"relu": 0.5, "linear": 1.0, "abs": 1.0}  # φ(cx) = cφ(x): name: E φ(z)² = E φ'(z)²
_LEAST_VARIANCE = 1e-3  # below it the ε of a normalisation (1e-5 or less), which theory leaves out, is felt


def _half_line() -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre nodes and weights on (0, 12], in panels that halve towards 0, where φ(√q·z) bends for great q."""
    edges = np.concatenate([[0.0], 2.0 ** np.arange(-44, 0), np.arange(1.0, 13.0)])
    points, weights = np.polynomial.legendre.leggauss(12)
    half, centre = np.diff(edges)[:, None] / 2, (edges[1:] + edges[:-1])[:, None] / 2
    return (centre + half * points).ravel(), (half * weights).ravel()


_POSITIVE, _LENGTHS = _half_line()
_NODES = np.concatenate([-_POSITIVE, _POSITIVE])  # split at 0: a kink of φ there costs nothing
_WEIGHTS = np.concatenate([_LENGTHS, _LENGTHS]) * _density(_NODES)


def expectation(f: Function, q: float) -> float:
    """E f(√q·z) for z ~ N(0, 1), to about 1e-12 for q up to 1e24; q = 0 is the limit from above."""
    return float(_WEIGHTS @ f(math.sqrt(max(q, 5e-324)) * _NODES))


@functools.lru_cache(maxsize=4096)
def _second_moments(name: str, q: float) -> tuple[float, float]:
    """E φ(√q·z)² and E φ'(√q·z)²."""
    if name in _HOMOGENEOUS:
        return _HOMOGENEOUS[name] * q, _HOMOGENEOUS[name]
    phi, slope = NONLINEARITIES[name]
    return expectation(lambda x: phi(x) ** 2, q), expectation(lambda x: slope(x) ** 2, q)


@dataclass(frozen=True)
class Moments:
    """Gaussian moments of φ at variance 1."""

    mean: float  # E φ
    square: float  # E φ²
    slope_square: float  # E φ'²
    sigma_w2: float  # 1 / E φ²: keeps the variance 1 where σ_b = 0
    chi_1: float  # E φ'² / E φ²: the gradient's factor per layer there


def moments(name: str) -> Moments:
    """The Gaussian moments of the nonlinearity ``name``."""
    square, slope_square = _second_moments(name, 1.0)
    return Moments(expectation(NONLINEARITIES[name][0], 1.0), square, slope_square, 1 / square, slope_square / square)


def kappa_0(c: float) -> float:
    """κ₀(c) = (π − arccos c)/π: 2 E φ'(u)φ'(v) of ReLU for unit normal u, v of correlation c (Cho & Saul 2009)."""
    return (math.pi - math.acos(c)) / math.pi


def kappa_1(c: float) -> float:
    """κ₁(c) = [√(1−c²) + c(π − arccos c)]/π: 2 E φ(u)φ(v) of ReLU, unit normal u, v (Cho & Saul 2009)."""
    return (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi


def variance_map(name: str, q: float, sigma_w2: float, sigma_b2: float) -> float:
    """V(q) = σ_w² E φ(√q·z)² + σ_b², the variance one plain layer further (Poole et al. 2016, eq. 3)."""
    return sigma_w2 * _second_moments(name, q)[0] + sigma_b2


def fixed_point(name: str, sigma_w2: float, sigma_b2: float, start: float = 1.0) -> float:
    """q* = V(q*): the limit of the variances of a deep plain network that begins at ``start``; 0 or ∞ where it is."""
    if name in _HOMOGENEOUS:
        room = 1 - sigma_w2 * _HOMOGENEOUS[name]
        return sigma_b2 / room if room > 0 else (start if room == sigma_b2 == 0 else math.inf)

    def excess(log_q: float) -> float:
        return math.log(variance_map(name, math.exp(log_q), sigma_w2, sigma_b2)) - log_q

    near = math.log(start)
    direction = math.copysign(0.5, excess(near))
    while abs(near) < 600 and (near > -27 or sigma_b2 > 0):  # 1e-12 is taken for 0: quadrature sees no difference
        far = near + direction
        if excess(far) * direction <= 0:
            return math.exp(brentq(excess, near, far, xtol=1e-14))
        near = far
    return math.inf if direction > 0 else 0.0


def chi_1(name: str, sigma_w2: float, sigma_b2: float) -> float:
    """χ₁ = σ_w² E φ'(√q*·z)²: the gradient's factor per layer of a deep plain network (Poole et al. 2016, eq. 6)."""
    return sigma_w2 * _second_moments(name, min(fixed_point(name, sigma_w2, sigma_b2), 1e300))[1]


def critical_sigma_w2(name: str, sigma_b2: float) -> float | None:
    """The least σ_w² with χ₁ = 1, the edge of chaos (Schoenholz et al. 2017); None where χ₁ only jumps over 1."""
    upper = 0.25
    while chi_1(name, upper, sigma_b2) < 1:
        upper *= 1.25
    root = float(brentq(lambda x: chi_1(name, x, sigma_b2) - 1, upper / 1.25, upper, xtol=1e-12))
    return root if abs(chi_1(name, root, sigma_b2) - 1) < 1e-6 else None


def depth_scale(name: str, sigma_w2: float, sigma_b2: float) -> float:
    """ξ = 1/|ln χ₁|: the layers over which the squared gradient changes by e; ∞ at χ₁ = 1 (Schoenholz et al. 2017)."""
    rate = abs(math.log(chi_1(name, sigma_w2, sigma_b2)))
    return 1 / rate if rate > 0 else math.inf


def _batch_kappas(activation: str, batch: int) -> tuple[float, float]:
    """κ₀, κ₁ between two samples of a normalised batch, whose correlation is c = −1/(B−1)."""
    c = -1 / (batch - 1)
    return (kappa_0(c), kappa_1(c)) if activation == "relu" else (1.0, c)


def batch_norm_rate(activation: str, batch: int) -> float | None:
    """The factor per layer deep inside a plain network with batch norm, whatever σ_w and σ_b.

    relu: (κ₀(c) + B − 1) / ((B−3)(1 − κ₁(c))) − 1/(B−3) with c = −1/(B−1); linear: (B−2)/(B−3) (Yang et al. 2019,
    Theorems 7 to 9). None for other nonlinearities, which have no closed form, and for B < 4, where no mean exists.
    """
    if activation not in ("relu", "linear") or batch < 4:
        return None
    k0, k1 = _batch_kappas(activation, batch)
    # With κ₀ = 1, κ₁ = c the relu form gives (B−2)/(B−3) too.
    return (k0 + batch - 1) / ((batch - 3) * (1 - k1)) - 1 / (batch - 3)


@dataclass(frozen=True)
class _Net:
    activation: str
    depth: int
    q0: float
    w2: float
    b2: float
    a2: float
    s2: float


def _felt(variance: float) -> float:
    """``variance`` where it may be divided by without minding a normalisation's ε, else NaN."""
    return variance if variance >= _LEAST_VARIANCE else math.nan


def _layer_norm_factors(net: _Net, place: str | None) -> list[float]:
    """Factors for layer norm at ``place`` (None: no norm): v = s²q + a²f forward, s² + a²d backward.

    f = σ_w² E φ² + σ_b² and d = σ_w² E φ'² at the variance φ sees. A norm makes the variance at its place 1 and divides
    the squared gradient that passes by what it was; the two directions it removes are O(1/n).
    """
    factors, q = [], net.q0
    for _ in range(net.depth):
        square, slope = _second_moments(net.activation, 1.0 if place == "pre" else q)
        f, d = net.w2 * square + net.b2, net.w2 * slope
        if place == "pre":
            d /= _felt(q)
        if place == "branch":
            f, d = 1.0, d / _felt(f)
        q, factor = net.s2 * q + net.a2 * f, net.s2 + net.a2 * d
        if place == "post":
            q, factor = 1.0, factor / _felt(q)
        factors.append(factor)
    return factors


def _batch_norm_pre_factors(net: _Net, batch: int) -> list[float]:
    """Factors for batch norm before the branch, φ relu or linear; B → ∞ is Yang et al. 2019 with a shortcut.

    τ is the variance between samples: τ' = s²τ + a²σ_w² m(1−κ₁(c)), m = E φ². Per unit, z = √B·(direction in the B−1
    dimensions without the mean) and 1/variance has mean B/((B−3)τ). The backward Gram matrix over samples stays
    α·(no mean) + β·(mean): diagonal p, off-diagonal o. With P = I − 11ᵀ/B − zzᵀ/B the branch adds
    E tr(P φ'Πφ' P)/variance to α, and s = 0, β = 0 gives ``batch_norm_rate``.
    """
    k0, k1 = _batch_kappas(net.activation, batch)
    gain = net.a2 * net.w2 * _HOMOGENEOUS[net.activation]
    taus = [net.q0 - net.b2]  # the embedding's bias is the same for every sample
    for _ in range(net.depth):
        taus.append(net.s2 * taus[-1] + gain * (1 - k1))
    alpha, beta, factors = 1.0, 1.0, []
    for tau in reversed(taus[:-1]):
        p, o = ((batch - 1) * alpha + beta) / batch, (beta - alpha) / batch
        traces = (batch - 2) * p - (batch - 1) * o * (k0 + k1)
        alpha = net.s2 * alpha + gain * batch * traces / ((batch - 1) * (batch - 3) * _felt(tau))
        beta = net.s2 * beta
        factor = ((batch - 1) * alpha + beta) / (batch * p)
        factors.append(factor)
        alpha, beta = alpha / factor, beta / factor
    return factors[::-1]


def _batch_norm_plain_factors(net: _Net, place: str, batch: int) -> list[float]:
    """Factors of a plain network with batch norm behind the branch or the sum: ``batch_norm_rate`` but at both ends.

    The cotangent at the top has a mean over the batch, and h_0 is not normalised: samples correlate by σ_b²/q0.
    """
    k1 = _batch_kappas(net.activation, batch)[1]
    bias = net.b2 / net.q0
    first = kappa_1(min(bias, 1.0)) if net.activation == "relu" else bias
    q1 = net.a2 if place == "branch" else 1.0
    factors = np.full(net.depth, batch_norm_rate(net.activation, batch))
    factors[-1:] = (batch - 2) / ((batch - 3) * (1 - k1))
    factors[:1] *= q1 / net.q0 * (1 - k1) / (1 - first)
    return list(factors)


def _factors(net: _Net, norm: str, place: str, batch: int) -> list[float] | None:
    if norm == "none":
        return _layer_norm_factors(net, None)
    if norm == "layer" and place in ("pre", "branch", "post"):
        return _layer_norm_factors(net, place)
    if norm == "batch" and batch_norm_rate(net.activation, batch) is not None:
        if place == "pre":
            return _batch_norm_pre_factors(net, batch)
        if place in ("branch", "post") and net.s2 == 0:
            return _batch_norm_plain_factors(net, place, batch)
    return None


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
) -> Float64[np.ndarray, "layers"] | None:
    """Doc."""
    net = _Net(activation, depth, q0, sigma_w2, sigma_b2, branch_scale**2, shortcut_scale**2)
    if activation not in NONLINEARITIES or not q0 > 0:
        return None
    with np.errstate(all="ignore"):
        factors = _factors(net, norm, placement, batch)
        if factors is None:
            return None
        logs = np.log(np.asarray(factors, np.float64))
    profile = np.concatenate([np.cumsum(logs[::-1])[::-1], [0.0]])
    return profile if np.all(np.isfinite(profile)) else None


def factor_per_layer(profile: Float64[np.ndarray, "layers"], skip_first: int = 0) -> float:
    """Doc"""
    y = profile[skip_first:]
    x = np.arange(len(y)) - (len(y) - 1) / 2
    return float(np.exp(-(x @ y) / (x @ x))) if len(y) > 1 else math.nan


def finite_width_band(depth: int, width: int) -> tuple[float, float]:
    """Doc"""
    variance = 5 * depth / width
    return -variance / 2, math.sqrt(variance)
