"""Mean-field maps of variance and correlation through plain networks of infinite width.

All statements hold at initialisation.

Notation: h_{l+1} = W φ(h_l) + b, Var W = σ_w²/n, Var b = σ_b². q_l is the variance of an element of
h_l, c_l the correlation of an element between two inputs, z a standard normal variable.

References:
    Poole et al., Exponential expressivity in deep neural networks through transient chaos, 2016.
    Schoenholz et al., Deep information propagation, 2017. Cho & Saul, Kernel methods for deep
    learning, 2009.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray
Function = Callable[[Array], Array]
_SMALLEST = 5e-324  # the smallest positive float64


@dataclasses.dataclass(frozen=True)
class Nonlinearity:
    """A nonlinearity φ and its derivative φ', both elementwise."""

    function: Function
    derivative: Function


# The elementwise functions below map an array to an array of the same shape.


def _sigmoid(x):
    from scipy.special import expit  # this import takes a third of a second

    return expit(x)


def _normal_cdf(x):
    from scipy.special import ndtr  # this import takes a third of a second

    return ndtr(x)


def _normal_density(x):
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _identity(x):
    return x


def _relu(x):
    return np.maximum(x, 0)


def _relu_derivative(x):
    return np.where(x > 0, 1.0, 0.0)


def _tanh_derivative(x):
    """1 − tanh², without cancellation."""
    return 4 * _sigmoid(2 * x) * _sigmoid(-2 * x)


def _sigmoid_derivative(x):
    return _sigmoid(x) * _sigmoid(-x)


def _gelu(x):
    return x * _normal_cdf(x)


def _gelu_derivative(x):
    return _normal_cdf(x) + x * _normal_density(x)


def _silu(x):
    return x * _sigmoid(x)


def _silu_derivative(x):
    return _sigmoid(x) * (1 + x * _sigmoid(-x))


def _softsign(x):
    return x / (1 + np.abs(x))


def _softsign_derivative(x):
    return (1 + np.abs(x)) ** -2.0


def _make_elu(alpha: float, scale: float) -> Nonlinearity:
    def function(x):
        negative = alpha * np.expm1(np.minimum(x, 0))
        return scale * np.where(x > 0, x, negative)

    def derivative(x):
        negative = alpha * np.exp(np.minimum(x, 0))
        return scale * np.where(x > 0, 1.0, negative)

    return Nonlinearity(function, derivative)


NONLINEARITIES: dict[str, Nonlinearity] = {
    "relu": Nonlinearity(_relu, _relu_derivative),
    "tanh": Nonlinearity(np.tanh, _tanh_derivative),
    "sigmoid": Nonlinearity(_sigmoid, _sigmoid_derivative),
    "gelu": Nonlinearity(_gelu, _gelu_derivative),
    "silu": Nonlinearity(_silu, _silu_derivative),
    "elu": _make_elu(alpha=1.0, scale=1.0),
    # Klambauer et al. 2017, eq. 14
    "selu": _make_elu(alpha=1.6732632423543772, scale=1.0507009873554805),
    "softsign": Nonlinearity(_softsign, _softsign_derivative),
    "linear": Nonlinearity(_identity, np.ones_like),
    "abs": Nonlinearity(np.abs, np.sign),
}

# The nonlinearities with φ(cx) = cφ(x) for every c > 0, and their E φ(z)² = E φ'(z)².
HOMOGENEOUS = {
    "relu": 0.5,
    "linear": 1.0,
    "abs": 1.0,
}


def _quadrature_nodes() -> tuple[Array, Array]:
    """Nodes and weights of Gauss–Legendre quadrature in panels from −12 to 12 that halve towards 0.

    For large q, φ(√q·z) bends close to 0, and a kink at 0 lies on the edge of a panel.
    """
    small_edges = 2.0 ** np.arange(-44, 0)
    large_edges = np.arange(1.0, 13.0)
    right = np.concatenate([[0.0], small_edges, large_edges])
    left = -right[:0:-1]
    edges = np.concatenate([left, right])
    points, lengths = np.polynomial.legendre.leggauss(12)
    half_widths = np.diff(edges)[:, None] / 2
    nodes = edges[:-1, None] + half_widths * (1 + points)
    return nodes.ravel(), (half_widths * lengths).ravel()


_NODES, _LENGTHS = _quadrature_nodes()
_WEIGHTS = _LENGTHS * _normal_density(_NODES)


def expectation(f: Function, q: float) -> float:
    """E f(√q·z), to about 1e-12 for q up to 1e24; q = 0 gives the limit from above."""
    deviation = math.sqrt(max(q, _SMALLEST))
    return float(_WEIGHTS @ f(deviation * _NODES))


def expectation_about(
    f: Function,
    mean: float,
    variance: float,
) -> float:
    """E f(x) of a Gaussian x, to about 1e-10 for a mean within 4 standard deviations of 0.

    The panels halve towards x = 0, where a nonlinearity may bend.

    Args:
        f: an elementwise function.
        mean: the mean of x.
        variance: the variance of x; 0 gives the limit from above.
    """
    deviation = math.sqrt(max(variance, _SMALLEST))
    shift = mean / deviation
    if abs(shift) > 4:
        return float(_WEIGHTS @ f(mean + deviation * _NODES))
    weights = _LENGTHS * _normal_density(_NODES - shift)
    return float(weights @ f(deviation * _NODES))


@dataclasses.dataclass(frozen=True)
class SecondMoments:
    """``function``: E φ(√q·z)². ``derivative``: E φ'(√q·z)²."""

    function: float
    derivative: float


@functools.lru_cache(maxsize=4096)
def second_moments(name: str, q: float) -> SecondMoments:
    """The mean squares of the nonlinearity ``name`` and of its derivative at the variance ``q``."""
    if name in HOMOGENEOUS:
        at_one = HOMOGENEOUS[name]
        return SecondMoments(function=at_one * q, derivative=at_one)
    nonlinearity = NONLINEARITIES[name]
    return SecondMoments(
        function=_mean_square(nonlinearity.function, q),
        derivative=_mean_square(nonlinearity.derivative, q),
    )


@functools.lru_cache(maxsize=4096)
def second_moments_about(
    name: str,
    mean: float,
    variance: float,
) -> SecondMoments:
    """The mean squares of a nonlinearity and of its derivative at a Gaussian with a mean.

    Args:
        name: the nonlinearity.
        mean: the mean of its input.
        variance: the variance of its input around that mean.
    """
    if not mean:
        return second_moments(name, variance)
    nonlinearity = NONLINEARITIES[name]
    return SecondMoments(
        function=expectation_about(lambda x: nonlinearity.function(x) ** 2, mean, variance),
        derivative=expectation_about(lambda x: nonlinearity.derivative(x) ** 2, mean, variance),
    )


def _mean_square(f: Function, q: float) -> float:
    return expectation(lambda x: f(x) ** 2, q)


@dataclasses.dataclass(frozen=True)
class Moments:
    """Gaussian moments of φ at variance 1."""

    mean: float  # E φ(z)
    mean_square: float  # E φ(z)²
    derivative_mean_square: float  # E φ'(z)²
    sigma_w2: float  # 1/E φ²: the σ_w² that keeps the variance 1 where σ_b = 0
    chi_1: float  # E φ'²/E φ²: the factor per layer there


def moments(name: str) -> Moments:
    """The moments of the nonlinearity ``name``."""
    second = second_moments(name, 1.0)
    return Moments(
        mean=expectation(NONLINEARITIES[name].function, 1.0),
        mean_square=second.function,
        derivative_mean_square=second.derivative,
        sigma_w2=1 / second.function,
        chi_1=second.derivative / second.function,
    )


def kappa_0(c: float) -> float:
    """κ₀(c) = (π − arccos c)/π = 2 E φ'(u)φ'(v) for relu (Cho & Saul 2009).

    u and v are standard normal with correlation c.
    """
    return (math.pi - math.acos(c)) / math.pi


def kappa_1(c: float) -> float:
    """κ₁(c) = [√(1 − c²) + c(π − arccos c)]/π = 2 E φ(u)φ(v) for relu (Cho & Saul 2009).

    u and v are standard normal with correlation c.
    """
    angle = math.pi - math.acos(c)
    return (math.sqrt(1 - c * c) + c * angle) / math.pi


def variance_map(
    name: str,
    q: float,
    sigma_w2: float,
    sigma_b2: float,
) -> float:
    """V(q) = σ_w² E φ(√q·z)² + σ_b², the variance after one layer (Poole et al. 2016, eq. 3).

    Args:
        name: the nonlinearity.
        q: the variance before the layer.
        sigma_w2: σ_w², the weights' variance times the width.
        sigma_b2: σ_b², the biases' variance.
    """
    return sigma_w2 * second_moments(name, q).function + sigma_b2


def fixed_point(
    name: str,
    sigma_w2: float,
    sigma_b2: float,
    start: float = 1.0,
) -> float:
    """q* = V(q*), the limit of the variance in a plain network; it may be 0 or ∞.

    Args:
        name: the nonlinearity.
        sigma_w2: σ_w², the weights' variance times the width.
        sigma_b2: σ_b², the biases' variance.
        start: the variance of the first layer.
    """
    if name in HOMOGENEOUS:
        return _homogeneous_fixed_point(name, sigma_w2, sigma_b2, start)

    def log_growth(log_q: float) -> float:
        following = variance_map(name, math.exp(log_q), sigma_w2, sigma_b2)
        return math.log(max(following, _SMALLEST)) - log_q

    # V increases with q, so the limit is the first crossing in the direction in which the variance
    # moves.
    log_q = math.log(start)
    step = math.copysign(0.5, log_growth(log_q))
    smallest_log_q = -27 if sigma_b2 == 0 else -math.inf  # without biases, 1e-12 counts as 0
    while smallest_log_q < log_q < 600:
        if log_growth(log_q + step) * step <= 0:
            return math.exp(_find_root(log_growth, log_q, log_q + step))
        log_q += step
    return math.inf if step > 0 else 0.0


def _homogeneous_fixed_point(
    name: str,
    sigma_w2: float,
    sigma_b2: float,
    start: float,
) -> float:
    """Solves q = σ_w² E φ(z)² q + σ_b²."""
    decay = 1 - sigma_w2 * HOMOGENEOUS[name]
    if decay > 0:
        return sigma_b2 / decay
    if decay == 0 and sigma_b2 == 0:
        return start
    return math.inf


def chi_1(
    name: str,
    sigma_w2: float,
    sigma_b2: float,
) -> float:
    """χ₁ = σ_w² E φ'(√q*·z)², the factor per layer at the fixed point (Poole et al. 2016, eq. 6).

    Args:
        name: the nonlinearity.
        sigma_w2: σ_w², the weights' variance times the width.
        sigma_b2: σ_b², the biases' variance.
    """
    q = min(fixed_point(name, sigma_w2, sigma_b2), 1e300)
    return sigma_w2 * second_moments(name, q).derivative


def critical_sigma_w2(name: str, sigma_b2: float) -> float | None:
    """The smallest σ_w² with χ₁ = 1, the edge of chaos; None where χ₁ jumps over 1.

    References:
        Schoenholz et al., Deep information propagation, 2017.
    """

    def distance(sigma_w2: float) -> float:
        return chi_1(name, sigma_w2, sigma_b2) - 1

    upper = 0.25
    while chi_1(name, upper, sigma_b2) < 1:
        upper *= 1.25
    root = _find_root(distance, upper / 1.25, upper)
    # With gelu and silu q* can jump to ∞; there the search ends at the jump, which is no root.
    return root if abs(distance(root)) < 1e-6 else None


def depth_scale(
    name: str,
    sigma_w2: float,
    sigma_b2: float,
) -> float:
    """ξ = 1/|ln χ₁|, the layers over which the squared gradient changes by e; ∞ where χ₁ = 1.

    Args:
        name: the nonlinearity.
        sigma_w2: σ_w², the weights' variance times the width.
        sigma_b2: σ_b², the biases' variance.

    References:
        Schoenholz et al., Deep information propagation, 2017.
    """
    chi = chi_1(name, sigma_w2, sigma_b2)
    return math.inf if chi == 1 else 1 / abs(math.log(chi))


def correlation_map(
    name: str,
    c: float,
    sigma_w2: float,
    sigma_b2: float,
) -> float:
    """C(c) = (σ_w² E φ(u)φ(v) + σ_b²)/q*, the correlation after one layer at the fixed point q*.

    u and v have variance q* and correlation c (Poole et al. 2016, eq. 5).

    Args:
        name: the nonlinearity.
        c: the correlation before the layer.
        sigma_w2: σ_w², the weights' variance times the width.
        sigma_b2: σ_b², the biases' variance.
    """
    q = fixed_point(name, sigma_w2, sigma_b2)
    product = pair_expectation(NONLINEARITIES[name].function, q, c)
    return (sigma_w2 * product + sigma_b2) / q


def correlation_slope(
    name: str,
    c: float,
    sigma_w2: float,
    sigma_b2: float,
) -> float:
    """C'(c) = σ_w² E φ'(u)φ'(v), u and v as in ``correlation_map``; at c = 1 it is χ₁.

    Args:
        name: the nonlinearity.
        c: the correlation before the layer.
        sigma_w2: σ_w², the weights' variance times the width.
        sigma_b2: σ_b², the biases' variance.
    """
    q = fixed_point(name, sigma_w2, sigma_b2)
    return sigma_w2 * pair_expectation(NONLINEARITIES[name].derivative, q, c)


def correlation_depth_scale(
    name: str,
    sigma_w2: float,
    sigma_b2: float,
) -> float:
    """ξ_c = −1/ln C'(c*), the layers over which correlations approach c* = C(c*) by a factor e.

    c* is 1 up to the edge of chaos and smaller beyond it. ξ_c is ∞ on the edge.

    Args:
        name: the nonlinearity.
        sigma_w2: σ_w², the weights' variance times the width.
        sigma_b2: σ_b², the biases' variance.

    References:
        Schoenholz et al., Deep information propagation, 2017, eq. 9.
    """
    chi = chi_1(name, sigma_w2, sigma_b2)
    if chi == 1:
        return math.inf
    if chi < 1:
        return -1 / math.log(chi)

    def change(c: float) -> float:
        return correlation_map(name, c, sigma_w2, sigma_b2) - c

    c = _find_root(change, 0.0, 1 - 1e-7)
    slope = correlation_slope(name, c, sigma_w2, sigma_b2)
    return -1 / math.log(slope)


def pair_expectation(
    f: Function,
    q: float,
    c: float,
) -> float:
    """E f(u)f(v) for normal u, v of variance q and correlation c.

    With v = cu + √(1−c²)w: quadrature in panels over u, Gauss–Hermite over w.

    Args:
        f: an elementwise function.
        q: the variance of u and of v.
        c: their correlation, from −1 to 1.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    independent = math.sqrt(1 - c * c) * nodes
    deviation = math.sqrt(q)
    u = deviation * _NODES
    v = deviation * (c * _NODES[:, None] + independent)
    mean_over_w = f(v) @ weights / math.sqrt(2 * math.pi)
    return float(_WEIGHTS @ (f(u) * mean_over_w))


def _find_root(
    function: Callable[[float], float],
    low: float,
    high: float,
) -> float:
    from scipy.optimize import root_scalar  # this import takes half a second

    solution = root_scalar(function, bracket=(low, high), xtol=1e-13)
    return float(solution.root)
