"""Thresholds of deep networks without normalisation, set before the runs."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import at_best_rate, final, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

REZERO = "Bachlechner et al. 2020"
TRAINED = {256: (0.9, 100), 1000: (0.85, 60)}  # layers: (least accuracy, steps)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Who trains how fast, and what holds exactly at the start."""
    rezero = where(runs, {"skip.kind": "rezero"})
    first = list(
        {(run["model.depth"], run["seed"]): run for run in rezero}.values()
    )  # learning rates are not felt yet
    return [
        *(_accuracy(rezero, depth) for depth in TRAINED),
        _loss(rezero),
        *_exact(first),
        _learns(first),
    ]


def _accuracy(runs: Sequence[Run], depth: int) -> Claim:
    """Of the last epoch, at the learning rate with the lowest loss."""
    least, steps = TRAINED[depth]
    deep = where(runs, {"model.depth": depth})
    best = at_best_rate(deep)
    values = [final(run, "train_accuracy") for run in best]
    return claim(
        f"{depth} layers, {steps} steps at the best learning rate: training accuracy of the last epoch",
        source=REZERO,
        expected=f"≥ {least} on every seed",
        values=values,
        holds=min(values) >= least,
    )


def _loss(runs: Sequence[Run]) -> Claim:
    values = [final(run, "train_loss") for run in where(runs, {"optimizer.kind": "adam"})]
    return claim(
        "64 layers, Adam, 200 steps: training loss of the last epoch",
        source=REZERO,
        expected="≤ 0.05 on every seed",
        values=values,
        holds=max(values) <= 0.05,
    )


def _spread(run: Run, gauge: str) -> float:
    values = run.profiles[gauge][0]
    return float(np.ptp(values) / values[-1])


def _exact(runs: Sequence[Run]) -> list[Claim]:
    """Every layer is the identity, to the last bit: norms over layers are the same number.

    What arrives through a branch is D·Wᵀ·α·∂L/∂h. Where that is 0 for Gaussian W, drawn independently of the rest, so
    is α·∂L/∂h, which the gradients of the branch's weights and biases are products of.
    """
    statements = {
        "signal_grad": "first step, every depth: range over layers of the norm of ∂L/∂h, over its value in the last",
        "activation_rms": "first step, every depth: range over layers of the rms of h, over its value in the last",
    }
    norms = [
        _zero(words, [_spread(run, gauge) for run in runs]) for gauge, words in statements.items()
    ]
    distances = [float(run.inspections["jacobian_distance"][0]) for run in runs]
    through = [float(run.profiles["branch_grad"][0].max()) for run in runs]
    words = "first step, every depth: greatest gradient that arrives through a branch; with it, those of its weights"
    return [_zero("first step, every depth: max |J − I| of the Jacobian J = ∂h_N/∂h_0", distances), *norms,
            _zero(words, through), _one_element(runs)]  # fmt: skip


def _one_element(runs: Sequence[Run]) -> Claim:
    """Of W, the biases and α of a layer, by the exact count of the elements of its gradient that are 0."""
    counts = []
    for run in runs:
        width = run["model.width"]
        elements = (1 - run.profiles["grad_zero"][0].astype(float)) * (width * (width + 1) + 1)
        counts.append(float(elements[np.argmax(np.abs(elements - 1))]))
    return claim(
        "first step, every depth: elements of a layer's gradient that are not 0, of the layer farthest from 1",
        source=REZERO,
        expected="1, α's (to rounding of the fraction): max |g_W| = 0, |g_α| > 0",
        values=counts,
        holds=max(abs(count - 1) for count in counts) < 0.01,
    )


def _zero(statement: str, values: Sequence[float]) -> Claim:
    return claim(
        statement, source=REZERO, expected="exactly 0", values=values, holds=max(values) == 0
    )


def _learns(runs: Sequence[Run]) -> Claim:
    values = [float(run.profiles["grad_norm"][0].min()) for run in runs]
    return claim(
        "first step, every depth: least norm of a layer's gradient, which is that of its α, the weights' being 0",
        source=REZERO,
        expected="> 0",
        values=values,
        holds=min(values) > 0,
    )
