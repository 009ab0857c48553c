"""Thresholds of deep networks without normalisation, set before the runs."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import (
    at_best_rate,
    final_values,
    initial_inspections,
    where,
)
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed

REZERO = "Bachlechner et al. 2020"


def claims(runs: Sequence[Run]) -> list[Claim]:
    """How fast ReZero trains, and what holds exactly at its first step."""
    rezero = where(runs, {"skip.kind": "rezero"})
    first_steps = _one_per_depth_and_seed(rezero)
    return [
        _claim_accuracy(rezero, depth=256, steps=100, threshold=0.9),
        _claim_accuracy(rezero, depth=1000, steps=60, threshold=0.85),
        _claim_loss(rezero),
        _claim_jacobian(first_steps),
        _claim_equal_gradients(first_steps),
        _claim_equal_signals(first_steps),
        _claim_silent_branches(first_steps),
        _claim_one_element(first_steps),
        _claim_learns(first_steps),
    ]


def _one_per_depth_and_seed(runs: Sequence[Run]) -> list[Run]:
    """At the first step the learning rate has no effect yet, so one of the rates is enough."""
    chosen = {}
    for run in runs:
        chosen[run["model.depth"], run["seed"]] = run
    return list(chosen.values())


def _claim_accuracy(
    runs: Sequence[Run],
    *,
    depth: int,
    steps: int,
    threshold: float,
) -> Claim:
    best = at_best_rate(where(runs, {"model.depth": depth}))
    values = final_values(best, "train_accuracy")
    return claim_on_every_seed(
        f"{depth} layers, {steps} steps at the best learning rate: "
        "training accuracy of the last epoch",
        source=REZERO,
        values=values,
        at_least=threshold,
    )


def _claim_loss(runs: Sequence[Run]) -> Claim:
    adam = where(runs, {"optimizer.kind": "adam"})
    values = final_values(adam, "train_loss")
    return claim_on_every_seed(
        "64 layers, Adam, 200 steps: training loss of the last epoch",
        source=REZERO,
        values=values,
        at_most=0.05,
    )


def _claim_jacobian(runs: Sequence[Run]) -> Claim:
    distances = initial_inspections(runs, "jacobian_distance")
    return _claim_zero(
        "first step, every depth: max |J − I| of the Jacobian J = ∂h_N/∂h_0",
        distances.tolist(),
    )


def _claim_equal_gradients(runs: Sequence[Run]) -> Claim:
    return _claim_zero(
        "first step, every depth: range over layers of the norm of ∂L/∂h, "
        "over its value in the last",
        _relative_ranges(runs, "signal_grad"),
    )


def _claim_equal_signals(runs: Sequence[Run]) -> Claim:
    return _claim_zero(
        "first step, every depth: range over layers of the rms of h, over its value in the last",
        _relative_ranges(runs, "activation_rms"),
    )


def _relative_ranges(runs: Sequence[Run], gauge: str) -> list[float]:
    """The range of a gauge over layers, relative to the last layer.

    Every layer is the identity, to the last bit, so norms are the same number in every layer.
    """
    ranges = []
    for run in runs:
        values = run.profiles[gauge][0]
        ranges.append(float(np.ptp(values) / values[-1]))
    return ranges


def _claim_silent_branches(runs: Sequence[Run]) -> Claim:
    """A branch hands D·Wᵀ·α·∂L/∂h back to its input.

    Where that is 0 for a random Gaussian W, α·∂L/∂h is 0 too, and the gradients of the branch's
    weights and biases are products of it.
    """
    gradients = [float(run.profiles["branch_grad"][0].max()) for run in runs]
    return _claim_zero(
        "first step, every depth: greatest gradient that arrives through a branch; "
        "with it, those of its weights",
        gradients,
    )


def _claim_zero(statement: str, values: Sequence[float]) -> Claim:
    return claim(
        statement, source=REZERO, expected="exactly 0", values=values, holds=max(values) == 0
    )


def _claim_one_element(runs: Sequence[Run]) -> Claim:
    """Of the elements of W, the biases and α of a layer, only α has a gradient that is not 0."""
    counts = []
    for run in runs:
        width = run["model.width"]
        num_elements = width * (width + 1) + 1
        nonzero_fraction = 1 - run.profiles["grad_zero"][0].astype(float)
        nonzero = nonzero_fraction * num_elements
        farthest = np.argmax(np.abs(nonzero - 1))
        counts.append(float(nonzero[farthest]))
    return claim(
        "first step, every depth: elements of a layer's gradient that are not 0, "
        "of the layer farthest from 1",
        source=REZERO,
        expected="1, α's (to rounding of the fraction): max |g_W| = 0, |g_α| > 0",
        values=counts,
        holds=max(abs(count - 1) for count in counts) < 0.01,
    )


def _claim_learns(runs: Sequence[Run]) -> Claim:
    values = [float(run.profiles["grad_norm"][0].min()) for run in runs]
    return claim(
        "first step, every depth: least norm of a layer's gradient, "
        "which is that of its α, the weights' being 0",
        source=REZERO,
        expected="> 0",
        values=values,
        holds=min(values) > 0,
    )
