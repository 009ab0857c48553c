"""Whether a network will train, from what is known of it before it does."""

from dataclasses import dataclass

import numpy as np

from research.diagnosis.observed import Theory


@dataclass(frozen=True)
class Measurement:
    """What was measured of a network before training, on two batches. None: not measured.

    Attributes:
        steps: the updates that it is to be trained for.
        loss: the loss of the first batch.
        chance_loss: the loss of the best constant prediction; None where it is not known.
        loss_after: the loss of the second batch after one update on the first.
        decrease: by how much that update lowers the loss of the second batch, to first order.
        own_decrease: the same for the first batch.
        signal_grad: ‖∂L/∂h‖ of each signal [N+1].
        grad_rms: the root mean square of an element of each layer's gradient [N].
        update_ratio: ‖Δθ‖/‖θ‖ of each layer in the first update [N].
        variation: the share of each signal's mean square that differs between examples [N+1].
        learning_rate: its peak.
        memory: how many past updates add up in one: 1/(1 − momentum); 1 without momentum.
        ceiling: the learning rate from which on gradient descent diverges at once; None for
            optimizers whose update has another size than the gradient.
        sharpness: the greatest eigenvalue of the Hessian.
        epsilon: what Adam and its kin add to the size of a gradient; None for others.
        lost: for each number format, the share of the backward signal's elements that it would turn
            to zero in each layer [N+1].
        run_lost: the same as the run itself computes, of all elements that are nonzero in float32.
        is_finite: whether the first update has finite numbers only.
        trial: the loss of the first batch while it is trained on that batch alone [T+1].
        theory: the predicted factor per layer.
    """

    steps: int
    loss: float
    chance_loss: float | None
    loss_after: float
    decrease: float
    own_decrease: float
    signal_grad: np.ndarray | None
    grad_rms: np.ndarray | None
    update_ratio: np.ndarray | None
    variation: np.ndarray | None
    learning_rate: float
    memory: float
    ceiling: float | None
    sharpness: float | None
    epsilon: float | None
    lost: dict[str, np.ndarray]
    run_lost: np.ndarray | None
    is_finite: bool
    trial: np.ndarray | None
    theory: Theory | None
