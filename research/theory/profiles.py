"""What mean-field theory predicts at initialisation of a network of infinite width.

Notation: h_{l+1} = s·h_l + a·F(h_l), F(h) = W φ(norm(h)) + b, Var W = σ_w²/n, Var b = σ_b². q_l is
the variance of an element of h_l, z a standard normal variable. A factor per layer is that of the
gradient's squared norm, towards the input.

References:
    Poole et al., Exponential expressivity in deep neural networks through transient chaos, 2016.
    Schoenholz et al., Deep information propagation, 2017. Yang & Schoenholz, Mean field residual
    networks, 2017. Yang et al., A mean field theory of batch normalization, 2019. Cho & Saul,
    Kernel methods for deep learning, 2009.
"""

import dataclasses
import math

import numpy as np

from research.theory.mean_field import (
    HOMOGENEOUS,
    NONLINEARITIES,
    kappa_0,
    kappa_1,
    pair_expectation,
    second_moments,
    second_moments_about,
)

# A norm adds an ε of 1e-5 or less to the variance. The predictions leave it out, so they need a
# larger variance.
_SMALLEST_VARIANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class _Network:
    """The numbers of a network: ``branch_scale2`` is a², ``shortcut_scale2`` is s².

    The weights' variance of layer ``special_layer`` is multiplied by ``special_gain2``.
    """

    activation: str
    sigma_w2: float
    sigma_b2: float
    depth: int
    q0: float
    branch_scale2: float
    shortcut_scale2: float
    scales_norm: bool = False
    bias_mean: float = 0.0
    special_layer: int | None = None
    special_gain2: float = 1.0

    def weight_variance(self, layer: int) -> float:
        """σ_w² of layer l = 1, 2, …, which is numbered from 0 outside of this module."""
        if self.special_layer is not None and layer == self.special_layer + 1:
            return self.sigma_w2 * self.special_gain2
        return self.sigma_w2

    def norm_scale2(self, layer: int) -> float:
        """The square of the factor on the output of the norm of layer l = 1, 2, …: 1 or 1/l."""
        return 1 / layer if self.scales_norm else 1.0

    def has_theory(self) -> bool:
        """Whether the nonlinearity is known and all numbers are finite and possible."""
        numbers = [
            self.q0,
            self.sigma_w2,
            self.sigma_b2,
            self.shortcut_scale2,
            self.branch_scale2,
            self.bias_mean,
            self.special_gain2,
        ]
        is_known = self.activation in NONLINEARITIES
        is_possible = self.q0 > 0 and self.sigma_b2 >= 0
        return is_known and is_possible and bool(np.all(np.isfinite(numbers)))


@dataclasses.dataclass(frozen=True)
class _BatchKernels:
    """κ₀ and κ₁, or what replaces them for linear, for two samples of a normalised batch."""

    kappa_0: float
    kappa_1: float


def _batch_kernels(activation: str, batch: int) -> _BatchKernels:
    correlation = -1 / (batch - 1)
    if activation == "relu":
        return _BatchKernels(kappa_0(correlation), kappa_1(correlation))
    return _BatchKernels(1.0, correlation)


def batch_norm_rate(activation: str, batch: int) -> float | None:
    """The factor per layer deep inside a plain network with batch norm, whatever σ_w and σ_b.

    For relu it is [κ₀(c) + B − 1]/[(B−3)(1 − κ₁(c))] − 1/(B−3) with c = −1/(B−1). For linear κ₀ = 1
    and κ₁ = c make it (B−2)/(B−3) (Yang et al. 2019, Theorems 7 to 9).

    Returns:
        The factor; None for other nonlinearities, and for B < 4, where the mean diverges.
    """
    if activation not in ("relu", "linear") or batch < 4:
        return None
    kernels = _batch_kernels(activation, batch)
    numerator = kernels.kappa_0 + batch - 1
    denominator = (batch - 3) * (1 - kernels.kappa_1)
    return numerator / denominator - 1 / (batch - 3)


def _nan_if_small(variance: float) -> float:
    """The variance that a norm divides by, or NaN where the ε of the norm matters."""
    return variance if variance >= _SMALLEST_VARIANCE else math.nan


def _layer_norm_factors(network: _Network, placement: str) -> list[float]:
    """The factor s² + a²d of each layer, with d = σ_w² E φ'² at the variance that φ sees.

    A norm sets the variance at its place to 1 and divides the squared gradient by the variance it
    found there. ``placement`` is empty for a network without norm; only there biases may have a
    mean, which adds to that of the signal, and q is the variance around it.
    """
    q = network.q0
    mean = network.bias_mean
    shortcut_scale = math.sqrt(network.shortcut_scale2)
    branch_scale = math.sqrt(network.branch_scale2)
    factors = []
    for layer in range(1, network.depth + 1):
        norm_scale2 = network.norm_scale2(layer)
        sigma_w2 = network.weight_variance(layer)
        seen = norm_scale2 if placement in ("pre", "peri") else q
        moments = second_moments_about(network.activation, mean, seen)
        mean = shortcut_scale * mean + branch_scale * network.bias_mean
        branch_variance = sigma_w2 * moments.function + network.sigma_b2
        branch_factor = sigma_w2 * moments.derivative
        if placement in ("pre", "peri"):
            branch_factor = branch_factor * norm_scale2 / _nan_if_small(q)
        if placement in ("branch", "peri"):
            branch_factor = branch_factor / _nan_if_small(branch_variance)
            branch_variance = 1.0
        q = network.shortcut_scale2 * q + network.branch_scale2 * branch_variance
        factor = network.shortcut_scale2 + network.branch_scale2 * branch_factor
        if placement == "post":
            factor = factor / _nan_if_small(q)
            q = 1.0
        factors.append(factor)
    return factors


def _batch_norm_factors(network: _Network, batch: int) -> list[float]:
    """The factor of each layer with batch norm before the branch.

    This is Yang et al. 2019, Theorem 8, extended by a shortcut. The gradients' Gram matrix over the
    batch has one eigenvalue, ``mean``, for their mean over the batch and another, ``rest``, for
    everything else. The branch's part a²σ_w² E tr[P φ'Πφ' P]/variance with P = 1 − 11ᵀ/B − zzᵀ/B
    has no mean over the batch.
    """
    kernels = _batch_kernels(network.activation, batch)
    gain = np.float64(network.branch_scale2 * network.sigma_w2 * HOMOGENEOUS[network.activation])
    variances = _variances_over_batch(network, growth=gain * (1 - kernels.kappa_1))
    rest = 1.0
    mean = 1.0
    factors = []
    for variance in reversed(variances):
        diagonal = ((batch - 1) * rest + mean) / batch
        off_diagonal = (mean - rest) / batch
        # The mean of a unit's 1/variance is B/((B−3)·variance).
        scale = gain * batch / ((batch - 3) * _nan_if_small(variance))
        from_diagonal = (batch - 2) * diagonal
        from_pairs = (batch - 1) * off_diagonal * (kernels.kappa_0 + kernels.kappa_1)
        branch = scale * (from_diagonal - from_pairs)
        rest = network.shortcut_scale2 * rest + branch / (batch - 1)
        mean = network.shortcut_scale2 * mean
        factor = ((batch - 1) * rest + mean) / (batch * diagonal)
        rest = rest / factor
        mean = mean / factor
        factors.append(factor)
    return factors[::-1]


def _variances_over_batch(network: _Network, growth: float) -> list[float]:
    """The part of each layer's variance that differs between samples.

    A layer adds ``growth`` = a²σ_w² E φ²(1 − κ₁).
    """
    variance = network.q0 - network.sigma_b2  # the embedding's bias is the same for all samples
    variances = []
    for _ in range(network.depth):
        variances.append(variance)
        variance = network.shortcut_scale2 * variance + growth
    return variances


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
    scales_norm: bool = False,
    bias_mean: float = 0.0,
    special_layer: int | None = None,
    special_gain: float = 1.0,
) -> np.ndarray | None:
    """ln(‖∂L/∂h_l‖² / ‖∂L/∂h_N‖²) of a residual network at initialisation, for l = 0..N.

    The sum of ln(s² + a² σ_w² E φ'(√q_k·z)²) over k = l..N−1 with q_{l+1} = s² q_l + a² V(q_l). The
    cotangent at h_N is taken as random and independent between samples (Poole et al. 2016;
    Schoenholz et al. 2017; Yang & Schoenholz 2017). Layer norm at every place follows in the same
    way. Batch norm has a prediction before the branch, for relu and linear, if the inputs are
    centred and independent between samples.

    Args:
        activation: the nonlinearity φ.
        sigma_w2: σ_w², the weights' variance times the width.
        sigma_b2: σ_b², the biases' variance.
        depth: N, the number of layers.
        q0: the variance of the elements of h_0, the variance of biases included.
        branch_scale: a, the factor on each branch.
        shortcut_scale: s, the factor on each shortcut; 0 for a plain network.
        norm: the kind of normalisation.
        placement: where the norm is: ``pre``, ``branch``, ``post`` or, at both ends of the branch,
            ``peri``.
        batch: B, the examples in a batch.
        scales_norm: whether the output of the norm of layer l = 1, 2, … is multiplied by 1/√l.
        bias_mean: the mean of biases; there is no prediction for one with a norm or with negative
            factors a and s.
        special_layer: a layer, from 0, whose weights are multiplied by ``special_gain``; None for
            none. With batch norm there is no prediction for one.
        special_gain: that factor.

    Returns:
        The profile [N+1]; None where theory has no prediction: for other names, for numbers that
        are not finite, and where the ε of a norm would matter.
    """
    network = _Network(
        activation=activation,
        sigma_w2=sigma_w2,
        sigma_b2=sigma_b2,
        depth=depth,
        q0=q0,
        branch_scale2=branch_scale * branch_scale,
        shortcut_scale2=shortcut_scale * shortcut_scale,
        scales_norm=scales_norm,
        bias_mean=bias_mean,
        special_layer=special_layer,
        special_gain2=special_gain * special_gain,
    )
    has_usual_mean = not bias_mean or (norm == "none" and min(branch_scale, shortcut_scale) >= 0)
    has_usual_layers = special_layer is None or norm != "batch"
    if not (network.has_theory() and has_usual_mean and has_usual_layers):
        return None
    has_rate = batch_norm_rate(activation, batch) is not None
    has_batch_norm_theory = placement == "pre" and has_rate and not scales_norm
    with np.errstate(all="ignore"):
        if norm == "none":
            factors = _layer_norm_factors(network, placement="")
        elif norm == "layer" and placement in ("pre", "branch", "post", "peri"):
            factors = _layer_norm_factors(network, placement)
        elif norm == "batch" and has_batch_norm_theory:
            factors = _batch_norm_factors(network, batch)
        else:
            return None
        log_factors = np.log([1.0, *factors[::-1]])
        profile = np.cumsum(log_factors)[::-1]
    return profile if np.all(np.isfinite(profile)) else None


def pre_norm_variances(
    depth: int,
    *,
    branch_variance: float = 1.0,
    scales_norm: bool = False,
) -> np.ndarray:
    """Var h_l − Var h_0 of a network h + F(norm(h)) at initialisation, for l = 0..N: [N+1].

    Each branch adds ``branch_variance`` to the stream, so it grows as l. Where the output of the
    norm of layer l is multiplied by 1/√l and φ is homogeneous, layer l adds 1/l of it: the sum is
    the harmonic number H_l, about ln l + 0.577.

    Args:
        depth: N, the number of layers.
        branch_variance: the variance of F at an input of variance 1.
        scales_norm: whether the output of the norm of layer l = 1, 2, … is multiplied by 1/√l.

    References:
        Sun et al., The curse of depth in large language models, 2025, Lemma 3.2 and §4.
    """
    layers = np.arange(1, depth + 1)
    added = branch_variance / layers if scales_norm else np.full(depth, branch_variance)
    return np.concatenate([[0.0], np.cumsum(added)])


def variance_sensitivity(
    *,
    activation: str,
    sigma_w2: float,
    sigma_b2: float,
    depth: int,
    q0: float,
    branch_scale: float = 1.0,
    shortcut_scale: float = 0.0,
) -> float:
    """D ln q_N / d ln q_0 of a network without a norm: how the first layer's variance counts at the
    last.

    Above 1 a small difference grows, so the fixed point of the variance is unstable and the finite
    width of the first layer decides what happens. It is 1 for a homogeneous nonlinearity without
    biases.

    Args:
        activation: the nonlinearity φ.
        sigma_w2: σ_w², the weights' variance times the width.
        sigma_b2: σ_b², the biases' variance.
        depth: N, the number of layers.
        q0: the variance of the elements of h_0.
        branch_scale: a, the factor on each branch.
        shortcut_scale: s, the factor on each shortcut; 0 for a plain network.

    Returns:
        The sensitivity; NaN where a variance is 0 or not finite.
    """
    step = 1e-4
    a2 = branch_scale * branch_scale
    s2 = shortcut_scale * shortcut_scale
    logs = []
    for log_q0 in (math.log(q0), math.log(q0) + step):
        q = math.exp(log_q0)
        for _ in range(depth):
            branch = sigma_w2 * second_moments(activation, q).function + sigma_b2
            q = s2 * q + a2 * branch
        logs.append(math.log(q) if 0 < q < math.inf else math.nan)
    return (logs[1] - logs[0]) / step


def correlation_profile(
    *,
    sigma_w2: float,
    depth: int,
    q0: float,
    branch_scale: float,
    shortcut_scale: float,
    norm: str = "none",
) -> np.ndarray:
    """The cosine between the gradients of two independent inputs at h_l, for relu without biases.

    Both gradients have the same cotangent at h_N. A layer multiplies the square of a gradient by s²
    + a²d with d = σ_w²/2, and the product of the two by s² + a²d κ₀(c_l), where c_l is the
    correlation of the two signals. So a plain network has Π κ₀(c_l). With batch norm before the
    branch d = σ_w²/(2 q) and c = 0; the variance q over the batch, to which the mean of a rectifier
    does not contribute, grows by a²(1 − 1/π)σ_w²/2 a layer.

    Args:
        sigma_w2: σ_w², the weights' variance times the width.
        depth: N, the number of layers.
        q0: the variance of the elements of h_0.
        branch_scale: a, the factor on each branch.
        shortcut_scale: s, the factor on each shortcut; 0 for a plain network.
        norm: ``none`` or ``batch``.

    Returns:
        The cosines [N+1] at h_0 to h_N.

    References:
        Balduzzi et al., The shattered gradients problem, 2017, Theorems 1 to 3, where gates are
        independent draws.
    """
    a2 = branch_scale**2
    s2 = shortcut_scale**2
    half = sigma_w2 / 2
    q = q0
    c = 0.0
    ratios = []
    for _ in range(depth):
        if norm == "batch":
            branch = a2 * (half / q)
            product = s2 + branch * kappa_0(0.0)
            q = s2 * q + a2 * half * (1 - kappa_1(0.0))
        else:
            branch = a2 * half
            product = s2 + branch * kappa_0(c)
            c = (s2 * c + branch * kappa_1(c)) / (s2 + branch)
        ratios.append(product / (s2 + branch))
    return np.cumprod([1.0, *ratios[::-1]])[::-1]


def signal_correlations(
    *,
    activation: str,
    sigma_w2: float,
    sigma_b2: float,
    depth: int,
    q0: float,
    c0: float,
    branch_scale: float = 1.0,
    shortcut_scale: float = 0.0,
) -> np.ndarray:
    """The correlation of an element between two inputs at h_0 to h_N, without a norm.

    With the variance q and the covariance p = c·q of both inputs, a layer makes them s² q + a²
    (σ_w² E φ(u)² + σ_b²) and s² p + a² (σ_w² E φ(u)φ(v) + σ_b²); u and v have variance q and
    correlation c. The gauge ``signal_correlation`` measures the same for each pair of examples.

    Args:
        activation: the nonlinearity φ.
        sigma_w2: σ_w², the weights' variance times the width.
        sigma_b2: σ_b², the biases' variance.
        depth: N, the number of layers.
        q0: the variance of the elements of h_0.
        c0: the correlation at h_0, between −1 and 1.
        branch_scale: a, the factor on each branch.
        shortcut_scale: s, the factor on each shortcut; 0 for a plain network.

    Returns:
        The correlations [N+1].

    References:
        Poole et al., Exponential expressivity in deep neural networks through transient chaos,
        2016, eq. 5. Yang & Schoenholz, Mean field residual networks, 2017.
    """
    function = NONLINEARITIES[activation].function
    a2 = branch_scale**2
    s2 = shortcut_scale**2
    q = q0
    c = c0
    correlations = [c]
    for _ in range(depth):
        product = pair_expectation(function, q, c)
        covariance = s2 * c * q + a2 * (sigma_w2 * product + sigma_b2)
        q = s2 * q + a2 * (sigma_w2 * second_moments(activation, q).function + sigma_b2)
        c = min(1.0, max(-1.0, covariance / q)) if q else math.nan
        correlations.append(c)
    return np.array(correlations)


def factor_per_layer(profile: np.ndarray, skip_first: int = 0) -> float:
    """exp(−slope) of the least-squares line through a log profile [L].

    The line is fitted from index ``skip_first`` on.

    It is NaN for fewer than two points.
    """
    fitted = profile[skip_first:]
    if len(fitted) < 2:
        return math.nan
    layers = np.arange(len(fitted))
    slope = np.polyfit(layers, fitted, 1)[0]
    return float(np.exp(-slope))


def finite_width_band(depth: int, width: int) -> tuple[float, float]:
    """Mean −5L/(2n) and standard deviation √(5L/n) of ln(‖∂L/∂h_0‖²/‖∂L/∂h_N‖²).

    The network is plain, with ReLU and He initialisation, of depth L and width n.
    A layer multiplies by (2/n) Σ_i b_i z_i² with Bernoulli b, of mean 1 and variance (4/n)(3/2 −
    1/4) = 5/n. The logarithm has the mean −5/(2n) and variance 5/n, and independent layers add up
    (Hanin & Nica 2020).
    """
    mean = -2.5 * depth / width
    deviation = math.sqrt(5 * depth / width)
    return mean, deviation
