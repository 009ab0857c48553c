"""What the noise of a rounded gradient costs: how much a step still improves, and where it stops.

Notation: g is the gradient, ξ unbiased noise on it with σ² = E‖ξ‖², ρ = σ/‖g‖, η the step size, and
h the curvature, the same in every direction. A step θ − η(g + ξ) lowers a quadratic loss by
η‖g‖² − ½η²h(‖g‖² + σ²) in the mean.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

THRESHOLD = math.sqrt(3)
"""‖g‖/σ where ``step_share`` falls fastest with ρ: its second derivative is 0 at ρ = 1/√3, and the
share there is 3/4 (Chmiel et al. 2025)."""


def step_share(noise_ratio: ArrayLike) -> np.ndarray:
    """The improvement by the best step with noise, over that without: 1/(1 + ρ²).

    The best step size is 1/(h(1 + ρ²)), and the improvement there ‖g‖²/(2h(1 + ρ²)).

    >>> float(step_share(1 / THRESHOLD))
    0.75

    Args:
        noise_ratio: ρ.

    References:
        Chmiel et al., FP4 all the way: fully quantized training of LLMs, 2025, §4.
    """
    ratio = np.asarray(noise_ratio, float)
    return 1 / (1 + ratio**2)


def stopping_ratio(rate: float, curvature: float) -> float:
    """‖g‖/σ at which steps of a fixed size no longer lower the loss in the mean: √(ηh/(2 − ηh)).

    It is 1 at the step size 1/h, √3 at 3/2 of it, and small for small steps; ∞ from 2/h on, where
    gradient descent is unstable without noise too.

    Args:
        rate: η.
        curvature: h.
    """
    product = rate * curvature
    return math.sqrt(product / (2 - product)) if product < 2 else math.inf
