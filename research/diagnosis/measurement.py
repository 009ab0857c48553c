"""What is measured of a network before it trains, and what follows from it."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from research.diagnosis.depth import fit, log_profile
from research.diagnosis.observed import Theory
from research.theory.update_rules import first_hidden_layer


@dataclass(frozen=True)
class Measurement:
    """What was measured of a network before training, on two batches. None: not measured.

    Attributes:
        steps: the updates that it is to be trained for.
        loss: the loss of the first batch.
        chance_loss: the loss of the best constant prediction; None where it is not known.
        loss_after: the loss of the second batch after one update on the first.
        decrease: by how much that update lowers the loss of the second batch, to first order.
        learning_rate: its peak.
        total_updates: how many first updates all of them amount to, if the gradient stays the
            same: ``steps``, but 1/(1 − momentum) times as many with momentum, and 2√steps for
            AdaGrad.
        other_loss: the loss of the second batch before that update.
        common_decrease: the same as ``decrease`` where each example of the second batch has the
            label of another: the part of the update's effect that is the same for all examples.
        is_finite: whether the first update has finite numbers only.
        signal_grad: ‖∂L/∂h‖ of each signal [N+1].
        grad_rms: the root mean square of an element of each layer's gradient [N].
        update_ratio: ‖Δθ‖/‖θ‖ of each layer in the first update [N].
        variation: the share of each signal's mean square that differs between examples [N+1].
        ceiling: the learning rate from which on gradient descent with momentum is unstable,
            2(1 + momentum)/λ; None for optimizers whose update has another size than the gradient.
        is_nesterov: whether the momentum is Nesterov's, whose ceiling is (1 + 2·momentum) times as
            small.
        sharpness: λ, the greatest eigenvalue of the Hessian.
        epsilon: what Adam and its kin add to the size of a gradient; None for others.
        lost: for each number format, the share of the gradient's elements that it would turn to
            zero in each layer.
        run_lost: the same as the run itself computes, of the elements that float32 keeps.
        trial: the loss of the first batch while it is trained on that batch alone [T+1].
        least_loss: the least possible training loss, which is not 0 with label smoothing.
        theory: the factor per layer that mean-field theory predicts.
        notes: what else is to be known of the batches, in words.
    """

    steps: int
    loss: float
    chance_loss: float | None
    loss_after: float
    decrease: float
    learning_rate: float
    total_updates: float
    other_loss: float | None = None
    common_decrease: float | None = None
    is_finite: bool = True
    signal_grad: np.ndarray | None = None
    grad_rms: np.ndarray | None = None
    update_ratio: np.ndarray | None = None
    variation: np.ndarray | None = None
    ceiling: float | None = None
    is_nesterov: bool = False
    sharpness: float | None = None
    epsilon: float | None = None
    lost: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    run_lost: np.ndarray | None = None
    trial: np.ndarray | None = None
    least_loss: float = 0.0
    theory: Theory | None = None
    notes: tuple[str, ...] = ()

    @property
    def reference_loss(self) -> float:
        """The loss of chance; where it is not known, that of the first batch."""
        return self.loss if self.chance_loss is None else self.chance_loss

    @property
    def learnable_loss(self) -> float:
        """How far the loss of chance is above the least possible loss."""
        return abs(self.reference_loss - self.least_loss)


def factor_per_layer(measured: Measurement) -> float | None:
    """The factor on the squared gradient from one layer to the layer below; None if not measured.

    Args:
        measured: what was measured.
    """
    profile = relative_profile(measured)
    if profile is None or not np.isfinite(profile).sum() > 1:
        return None
    return fit(profile).factor_per_layer


def relative_profile(measured: Measurement) -> np.ndarray | None:
    """ln‖∂L/∂h_l‖²/‖∂L/∂h_N‖² of the signals that are measured; None without a gradient.

    Args:
        measured: what was measured.
    """
    if measured.signal_grad is None:
        return None
    signal = np.asarray(measured.signal_grad, float)
    signal = signal[~np.isnan(signal)]
    if not len(signal) or not np.isfinite(signal).all():
        return None
    if signal[-1] <= 0:
        return None
    return log_profile(signal)


def log10_ratio(measured: Measurement) -> float | None:
    """log₁₀ of the squared gradient of the first layer over that of the last; None if not known."""
    profile = relative_profile(measured)
    return None if profile is None else float(profile[0]) / math.log(10)


def hidden_layer(measured: Measurement) -> int | None:
    """The last layer from which down all gradients are below Adam's ε; None without one."""
    if measured.epsilon is None or measured.grad_rms is None:
        return None
    return first_hidden_layer(measured.grad_rms, measured.epsilon)


def worst_share(shares: np.ndarray) -> float | None:
    """The greatest of the shares of layers [N]; None where all are NaN."""
    known = np.asarray(shares)[np.isfinite(shares)]
    return float(known.max()) if len(known) else None
