"""What mean-field theory expects at initialisation of a network of infinite width; None where it has no number.

Notation: h_{l+1} = s·h_l + a·F(h_l), F(h) = W φ(norm(h)) + b, Var W = σ_w²/n, Var b = σ_b²; q_l is the variance of an
element of h_l, z standard normal. A factor per layer is that of the gradient's squared norm, towards the input.

References:
    Poole et al., Exponential expressivity in deep neural networks through transient chaos, 2016. Schoenholz et al.,
    Deep information propagation, 2017. Yang & Schoenholz, Mean field residual networks, 2017. Yang et al., A mean field
    theory of batch normalization, 2019. Cho & Saul, Kernel methods for deep learning, 2009.
"""

import math

import numpy as np

from research.theory.mean_field import HOMOGENEOUS, NONLINEARITIES, kappa_0, kappa_1, squares


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
    return (
        variance if variance >= 1e-3 else math.nan
    )  # below, the ε of a norm (1e-5 or less), left out here, is felt


def _layer_norm_factors(
    name: str, place: str, q: float, w2: float, b2: float, s2: float, a2: float, n: int
) -> list:
    """s² + a²d, with d = σ_w² E φ'² taken at the variance that φ sees; ``place`` is empty for no norm.

    A norm sets the variance at its place to 1 and divides the squared gradient by what it was.
    """
    factors = []
    for _ in range(n):
        square, slope = squares(name, 1.0 if place == "pre" else q)
        f = w2 * square + b2
        d = w2 * slope / (_divisor(q) if place == "pre" else 1)
        if place == "branch":
            f, d = 1.0, d / _divisor(f)
        q = s2 * q + a2 * f
        factor = s2 + a2 * d
        if place == "post":
            q, factor = 1.0, factor / _divisor(q)
        factors.append(factor)
    return factors


def _batch_norm_factors(
    name: str, batch: int, q: float, w2: float, b2: float, s2: float, a2: float, n: int
) -> list:
    """Batch norm before the branch: Yang et al. 2019, Theorem 8, with a shortcut and from end to end.

    The part t of q that differs between samples grows by a²σ_w² E φ²(1 − κ₁), and a unit's 1/variance has the mean
    B/((B−3)t). The gradients' Gram matrix over the batch has the eigenvalue β on its mean and α elsewhere (diagonal p,
    off it o). The branch's part a²σ_w² E tr[P φ'Πφ' P]/variance, P = 1 − 11ᵀ/B − zzᵀ/B, is without mean.
    """
    (k0, k1) = _batch_kappas(name, batch)
    gain = np.float64(a2 * w2 * HOMOGENEOUS[name])
    t = [q - b2]  # the embedding's bias is common to all samples
    for _ in range(n - 1):
        t.append(s2 * t[-1] + gain * (1 - k1))
    alpha = 1.0
    beta = 1.0
    factors = []
    for variance in t[::-1][:n]:
        p = ((batch - 1) * alpha + beta) / batch
        o = (beta - alpha) / batch
        branch = (
            gain
            * batch
            / ((batch - 3) * _divisor(variance))
            * ((batch - 2) * p - (batch - 1) * o * (k0 + k1))
        )
        alpha = s2 * alpha + branch / (batch - 1)
        beta = s2 * beta
        factors.append(((batch - 1) * alpha + beta) / (batch * p))
        alpha = alpha / factors[-1]
        beta = beta / factors[-1]
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
    if (
        activation not in NONLINEARITIES
        or not np.all(np.isfinite(numbers))
        or q0 <= 0
        or sigma_b2 < 0
    ):
        return None
    with np.errstate(all="ignore"):
        if norm == "none" or (norm == "layer" and placement in ("pre", "branch", "post")):
            factors = _layer_norm_factors(
                activation, placement if norm == "layer" else "", *numbers, depth
            )
        elif (
            norm == "batch"
            and placement == "pre"
            and batch_norm_rate(activation, batch) is not None
        ):
            factors = _batch_norm_factors(activation, batch, *numbers, depth)
        else:
            return None
        profile = np.cumsum(np.log([1.0, *factors[::-1]]))[::-1]
    return profile if np.all(np.isfinite(profile)) else None


def correlation_profile(
    *,
    sigma_w2: float,
    depth: int,
    q0: float,
    branch_scale: float,
    shortcut_scale: float,
    norm: str = "none",
) -> np.ndarray:
    """The cosine between the gradients of two independent inputs at h_l, l = 0..N, [N+1], of rectifiers without biases.

    Both have the same cotangent at h_N. A layer multiplies the square of a gradient by s² + a²d, d = σ_w²/2, and the
    product of two by s² + a²d κ₀(c), c_l the correlation of the two signals: a plain network has Π κ₀(c_l). With batch
    norm before the branch d = σ_w²/(2 q) and c = 0, and q, the variance over the batch, which a rectifier's mean has no
    part in, grows by a²(1 − 1/π)σ_w²/2 (Balduzzi et al. 2017, Theorems 1 to 3, where gates are independent draws).
    """
    a2 = branch_scale**2
    s2 = shortcut_scale**2
    half = sigma_w2 / 2
    q = q0
    c = 0.0
    ratios = []
    for _ in range(depth):
        seen, d = (0.0, half / q) if norm == "batch" else (c, half)
        ratios.append((s2 + a2 * d * kappa_0(seen)) / (s2 + a2 * d))
        if norm == "batch":
            q = s2 * q + a2 * half * (1 - kappa_1(0.0))
        else:
            c = (s2 * c + a2 * half * kappa_1(c)) / (s2 + a2 * half)
    return np.cumprod([1.0, *ratios[::-1]])[::-1]


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
