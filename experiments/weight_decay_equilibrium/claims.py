"""Thresholds of where weight decay and the gradient balance, set before the runs."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from research.records.queries import where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed
from research.theory.update_rules import equilibrium_ratio

DEFAZIO = "Defazio 2025"
LAARHOVEN = "van Laarhoven 2017"
CONSTANT = 1.0  # optimizer.decay_factor of runs whose rate stays the same
TOLERANCE = 0.05


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The balance at two rates, after the rate has fallen, and where no norm follows."""
    before_norm = where(runs, {"norm.placement": "branch"})
    after_norm = where(runs, {"norm.placement": "pre"})
    return [
        _settles(before_norm, 0.1),
        _settles(before_norm, 0.03),
        _ratio_rises(before_norm),
        _gradient_rises(before_norm),
        _norm_follows_the_law(before_norm),
        _settles_elsewhere(after_norm),
        _norm_follows_another_law(after_norm),
    ]


def constant_runs(runs: Sequence[Run], rate: float) -> list[Run]:
    """The runs whose learning rate stays at ``rate``."""
    return where(runs, {"optimizer.learning_rate": rate, "optimizer.decay_factor": CONSTANT})


def falling_runs(runs: Sequence[Run]) -> list[Run]:
    """The runs whose learning rate falls once."""
    factors = {run["optimizer.decay_factor"] for run in runs} - {CONSTANT}
    return where(runs, {"optimizer.decay_factor": min(factors)})


def last_half(run: Run, end: int) -> slice:
    """The second half of the steps up to ``end`` that had the same learning rate."""
    (boundary,) = run["optimizer.boundaries"]
    start = 0 if end <= boundary else boundary
    return slice((start + end) // 2, end)


def root_mean_square(run: Run, gauge: str, steps: slice) -> np.ndarray:
    """The root of the mean over steps of a squared gauge, for each layer [N]."""
    values = run.profiles[gauge][steps].astype(float)
    return np.sqrt(np.mean(values**2, axis=0))


def mean_ratio(run: Run, steps: slice) -> np.ndarray:
    """‖g‖/‖w‖ for each layer [N], both as root mean squares over steps."""
    gradient = root_mean_square(run, "grad_norm", steps)
    return gradient / root_mean_square(run, "weight_norm", steps)


def ratios_over_theory(run: Run) -> np.ndarray:
    """The settled ‖g‖/‖w‖ of each layer over the one of the theory [N]."""
    steps = last_half(run, run["train.steps"])
    theory = equilibrium_ratio(run["optimizer.learning_rate"], run["optimizer.weight_decay"])
    return mean_ratio(run, steps) / theory


def law_errors(run: Run) -> np.ndarray:
    """How far each step's ‖w‖² is from (1 − γλ)²‖w‖² + γ²‖g‖², over γ²‖g‖²: [steps − 1, N]."""
    rate = run["optimizer.learning_rate"]
    shrinkage = 1 - rate * run["optimizer.weight_decay"]
    squares = run.profiles["weight_norm"].astype(float) ** 2
    added = (rate * run.profiles["grad_norm"].astype(float)) ** 2
    expected = shrinkage**2 * squares[:-1] + added[:-1]
    return (squares[1:] - expected) / added[:-1]


def typical_errors(run: Run) -> np.ndarray:
    """The median over steps of the size of these errors, for each layer [N]."""
    return np.median(np.abs(law_errors(run)), axis=0)


def _settles(runs: Sequence[Run], rate: float) -> Claim:
    values = np.concatenate([ratios_over_theory(run) for run in constant_runs(runs, rate)])
    return claim(
        f"a norm follows, γ = {rate}: settled ‖g‖/‖w‖ over √(2λ/γ), every layer",
        source=f"{DEFAZIO}, eq. 4",
        expected=f"1 ± {TOLERANCE:g} in every layer on every seed",
        values=values.tolist(),
        holds=bool(np.max(np.abs(values - 1)) <= TOLERANCE),
    )


def _falls(run: Run, measure: Callable[[Run, slice], np.ndarray]) -> np.ndarray:
    """A quantity after the rate has fallen over that before, for each layer [N]."""
    (boundary,) = run["optimizer.boundaries"]
    before = measure(run, last_half(run, boundary))
    after = measure(run, last_half(run, run["train.steps"]))
    return after / before


def _ratio_rises(runs: Sequence[Run]) -> Claim:
    falling = falling_runs(runs)
    factor = falling[0]["optimizer.decay_factor"]
    expected = 1 / math.sqrt(factor)
    values = np.concatenate([_falls(run, mean_ratio) for run in falling])
    return claim(
        f"a norm follows, γ falls by {factor}: ‖g‖/‖w‖ after over before, every layer",
        source=f"{DEFAZIO}, §3",
        expected=f"{expected:.3f} ± {100 * TOLERANCE:g} % in every layer on every seed",
        values=values.tolist(),
        holds=bool(np.max(np.abs(values / expected - 1)) <= TOLERANCE),
    )


def _gradient_rises(runs: Sequence[Run]) -> Claim:
    def gradient(run: Run, steps: slice) -> np.ndarray:
        return root_mean_square(run, "grad_norm", steps)

    values = np.concatenate([_falls(run, gradient) for run in falling_runs(runs)])
    return claim(
        "a norm follows, γ falls: ‖g‖ after over before, every layer",
        source=f"{DEFAZIO}, Fig. 1",
        expected="> 1 in every layer on every seed",
        values=values.tolist(),
        holds=bool(np.min(values) > 1),
    )


def _norm_follows_the_law(runs: Sequence[Run]) -> Claim:
    worst = [float(np.max(typical_errors(run))) for run in constant_runs(runs, 0.1)]
    return claim_on_every_seed(
        "a norm follows: error of ‖w‖² ← (1 − γλ)²‖w‖² + γ²‖g‖² over γ²‖g‖², "
        "median over steps, worst layer",
        source=f"{LAARHOVEN}, §3",
        values=worst,
        at_most=0.01,
    )


def _settles_elsewhere(runs: Sequence[Run]) -> Claim:
    values = np.concatenate([ratios_over_theory(run) for run in constant_runs(runs, 0.03)])
    return claim(
        "no norm follows, γ = 0.03: settled ‖g‖/‖w‖ over √(2λ/γ), every layer",
        source=f"{DEFAZIO}, §2",
        expected="more than 15 % from 1 in every layer on every seed",
        values=values.tolist(),
        holds=bool(np.min(np.abs(values - 1)) > 0.15),
    )


def _norm_follows_another_law(runs: Sequence[Run]) -> Claim:
    typical = [float(np.min(typical_errors(run))) for run in constant_runs(runs, 0.1)]
    return claim_on_every_seed(
        "no norm follows: error of ‖w‖² ← (1 − γλ)²‖w‖² + γ²‖g‖² over γ²‖g‖², "
        "median over steps, best layer",
        source=f"{LAARHOVEN}, §3",
        values=typical,
        at_least=0.1,
    )
