"""What theory says of an optimizer: where weight decay balances, how far Adam moves, its edge.

Notation: γ is the learning rate, λ the weight decay, g the gradient of weights w, and ε the number
that Adam adds to its denominator.
"""

import math

import numpy as np
from numpy.typing import ArrayLike


def equilibrium_ratio(learning_rate: float, weight_decay: float) -> float:
    """The ‖g‖/‖w‖ at which gradient descent with weight decay keeps the norm of weights: √(2λ/γ).

    It holds for weights that a norm follows. Multiplying them by a number does not change the loss,
    so g is orthogonal to w, and a step w − γg − γλw makes ‖w‖² to (1 − γλ)²‖w‖² + γ²‖g‖². This is
    stationary at ‖g‖²/‖w‖² = (2λ/γ)·(1 − γλ/2). The last factor is kept here.

    Args:
        learning_rate: γ.
        weight_decay: λ.

    References:
        van Laarhoven, L2 regularization versus batch and weight normalization, 2017. Defazio, Why
        gradients rapidly increase near the end of training, 2025.
    """
    shrinkage = learning_rate * weight_decay
    correction = 1 - shrinkage / 2
    squared = 2 * weight_decay / learning_rate * correction
    return math.sqrt(squared)


def settling_steps(learning_rate: float, weight_decay: float) -> float:
    """The steps in which ‖w‖⁴ comes e times closer to that equilibrium: 1/(4γλ).

    With ‖g‖ = G/‖w‖ and a constant G, ‖w‖⁴ falls by a fraction of 4γλ a step and rises by 2γ²G².

    Args:
        learning_rate: γ.
        weight_decay: λ.
    """
    return 1 / (4 * learning_rate * weight_decay)


def adam_update_share(gradient: ArrayLike, epsilon: float) -> np.ndarray:
    """|Δθ|/γ of Adam for a gradient that stays the same: |g|/(|g| + ε).

    Both averages are then g and g² after the bias correction. The share is near 1 for gradients far
    above ε, one half at ε, and |g|/ε far below, where Adam is gradient descent at the rate γ/ε.

    Args:
        gradient: g of each element.
        epsilon: ε.

    References:
        Kingma & Ba, Adam, 2015, Algorithm 1. Everett et al., Scaling exponents across
        parameterizations and optimizers, 2024, §5 (what ε does to small gradients).
    """
    size = np.abs(np.asarray(gradient, float))
    return size / (size + epsilon)


def first_hidden_layer(gradients: ArrayLike, epsilon: float) -> int | None:
    """The last layer, counted from 0, from which down every layer's gradient is below ε.

    From this layer down Adam no longer makes up for a vanishing gradient.

    Args:
        gradients: the root mean square of an element of g, for each layer [N].
        epsilon: ε.

    Returns:
        The number of the layer; None where the first layer's gradient is not below ε.
    """
    is_below = np.asarray(gradients, float) < epsilon
    if not is_below[0]:
        return None
    if is_below.all():
        return len(is_below) - 1
    first_above = int(np.argmin(is_below))
    return first_above - 1


def adam_edge(learning_rate: float, beta1: float) -> float:
    """The curvature at which Adam becomes unstable: (2 + 2β₁)/((1 − β₁)γ).

    The curvature is the greatest eigenvalue of P^(-1/2) H P^(-1/2), with the Hessian H and the
    diagonal matrix P of Adam's denominators √v̂ + ε. Where P changes slowly, Adam is gradient
    descent with an average of gradients, m ← β₁m + (1 − β₁)g, in the coordinates P^(1/2)θ. Its
    error obeys x_{t+1} = (1 + β₁ − (1 − β₁)γs)·x_t − β₁x_{t−1} for the curvature s. That is stable
    up to this s.

    Args:
        learning_rate: γ.
        beta1: β₁.

    References:
        Cohen et al., Adaptive gradient methods at the edge of stability, 2022, eq. 2.
    """
    step_of_average = (1 - beta1) * learning_rate
    return (2 + 2 * beta1) / step_of_average


def momentum_edge(learning_rate: float, momentum: float = 0.0) -> float:
    """The greatest eigenvalue of the Hessian at which descent is stable: 2(1 + β)/γ.

    Args:
        learning_rate: γ.
        momentum: β of the heavy ball; 0 for gradient descent.

    References:
        Polyak, Some methods of speeding up the convergence of iteration methods, 1964. Cohen et
        al., Gradient descent on neural networks typically occurs at the edge of stability, 2021.
    """
    return 2 * (1 + momentum) / learning_rate


def nesterov_edge(learning_rate: float, momentum: float) -> float:
    """The same of Nesterov's momentum: 2(1 + β)/((1 + 2β)γ).

    On a quadratic function with eigenvalue λ, two steps are related by the roots z of z² −
    (1 + β)(1 − γλ)z + β(1 − γλ), one of which is −1 at this λ.

    Args:
        learning_rate: γ.
        momentum: β.

    References:
        Cohen et al., Gradient descent on neural networks typically occurs at the edge of stability,
        2021, appendix B.
    """
    return momentum_edge(learning_rate, momentum) / (1 + 2 * momentum)
