"""Thresholds of what Adam's ε does to small gradients, set before the runs."""

import math
from collections.abc import Sequence

import numpy as np

from research.records.queries import final_values, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed
from research.theory.update_rules import adam_update_share, first_hidden_layer

KINGMA = "Kingma & Ba 2015, Algorithm 1"
EVERETT = "Everett et al. 2024, §5"
TINY = 1e-15
USUAL = 1e-8
LARGE = 1e-6
GUESSING = math.log(10)  # the loss of a network that knows nothing of ten classes


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The law for single weights, and what it does to the early layers of a deep network."""
    law = where(runs, {"precision.kind": "float64"})
    deep = where(runs, {"precision.kind": "float32"})
    return [
        _half_at_epsilon(law),
        _follows_the_law(law),
        _first_layer_is_rescued(deep),
        _first_layer_is_hidden(deep),
        _hidden_below(deep, USUAL),
        _hidden_below(deep, LARGE),
        _learns(deep),
        _does_not_learn(deep),
    ]


def select(runs: Sequence[Run], epsilon: float) -> list[Run]:
    """The runs with one ε."""
    return where(runs, {"optimizer.epsilon": epsilon})


def measured_shares(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """|g|/ε of every weight with a gradient, and its mean |Δθ|/η over the steps of a run."""
    weights = run.inspections["parameters"]
    gradient = np.abs(run.inspections["parameter_gradient"][0])
    steps = run.inspections["step"]
    per_step = np.abs(weights[-1] - weights[0]) / (steps[-1] - steps[0])
    moved = gradient > 0
    in_epsilons = gradient[moved] / run["optimizer.epsilon"]
    return in_epsilons, per_step[moved] / run["optimizer.learning_rate"]


def elements_per_layer(run: Run) -> int:
    """Weights and biases of a layer."""
    return run["model.width"] * (run["model.width"] + 1)


def initial_gradients(run: Run) -> np.ndarray:
    """The root mean square of an element of the gradient in each layer [N], at the first step."""
    return run.profiles["grad_norm"][0] / math.sqrt(elements_per_layer(run))


def initial_shares(run: Run) -> np.ndarray:
    """The root mean square of |Δθ|/η in each layer [N], at the first step."""
    update = run.profiles["update_norm"][0] / math.sqrt(elements_per_layer(run))
    return update / run["optimizer.learning_rate"]


def _half_at_epsilon(runs: Sequence[Run]) -> Claim:
    values = []
    for run in runs:
        gradients, shares = measured_shares(run)
        in_order = np.argsort(gradients)
        logs = np.log(gradients[in_order])
        values.append(float(np.interp(0.0, logs, shares[in_order])))
    return claim(
        "|Δθ|/η of a weight with |g| = ε, between its neighbours, every ε",
        source=KINGMA,
        expected="0.5 ± 1 % on every seed",
        values=values,
        holds=max(abs(value - 0.5) for value in values) <= 0.005,
    )


def _follows_the_law(runs: Sequence[Run]) -> Claim:
    worst = []
    for run in runs:
        gradients, shares = measured_shares(run)
        errors = np.abs(shares / adam_update_share(gradients, 1.0) - 1)
        is_near = (gradients > 0.1) & (gradients < 10)
        worst.append(float(errors[is_near].max()))
    return claim(
        "|Δθ|/η over |g|/(|g| + ε) minus 1, worst weight with |g| from ε/10 to 10·ε",
        source=KINGMA,
        expected="≤ 0.01 on every seed and for every ε",
        values=worst,
        holds=max(worst) <= 0.01,
    )


def _first_layer_is_rescued(runs: Sequence[Run]) -> Claim:
    values = [float(initial_shares(run)[0]) for run in select(runs, TINY)]
    return claim(
        f"12 sigmoid layers, ε = {TINY:g}: first update of the first layer over η",
        source=EVERETT,
        expected="1 ± 1 % on every seed, though its gradient is 1e-7 of the last layer's",
        values=values,
        holds=max(abs(value - 1) for value in values) <= 0.01,
    )


def _first_layer_is_hidden(runs: Sequence[Run]) -> Claim:
    values = [float(initial_shares(run)[0]) for run in select(runs, USUAL)]
    return claim_on_every_seed(
        f"12 sigmoid layers, ε = {USUAL:g}: first update of the first layer over η",
        source=EVERETT,
        values=values,
        at_most=0.2,
    )


def _hidden_below(runs: Sequence[Run], epsilon: float) -> Claim:
    """Where half of the greatest update is reached, against where the gradient reaches ε."""
    differences = []
    for run in select(runs, epsilon):
        predicted = first_hidden_layer(initial_gradients(run), epsilon)
        measured = first_hidden_layer(initial_shares(run), 0.5)
        assert predicted is not None
        assert measured is not None
        differences.append(measured - predicted)
    return claim(
        f"12 sigmoid layers, ε = {epsilon:g}: last layer whose first update is below η/2, "
        "minus the last one whose gradient is below ε",
        source=EVERETT,
        expected="at most 1 layer apart on every seed",
        values=differences,
        holds=max(map(abs, differences)) <= 1,
    )


def _learns(runs: Sequence[Run]) -> Claim:
    values = final_values(select(runs, TINY), "train_loss")
    return claim(
        f"12 sigmoid layers, ε = {TINY:g}: training loss of the last epoch",
        source=EVERETT,
        expected="≤ 2.1 on every seed; guessing has 2.303",
        values=values,
        holds=max(values) <= 2.1,
    )


def _does_not_learn(runs: Sequence[Run]) -> Claim:
    values = final_values([*select(runs, USUAL), *select(runs, LARGE)], "train_loss")
    return claim(
        f"12 sigmoid layers, ε = {USUAL:g} and {LARGE:g}: training loss of the last epoch",
        source=EVERETT,
        expected=f"≥ 2.25 on every seed; guessing has {GUESSING:.3f}",
        values=values,
        holds=min(values) >= 2.25,
    )
