"""Thresholds of vanishing gradients, set before the runs.

They come from theory where it has a number, and from the task's chance level elsewhere.
"""

import math
from collections.abc import Sequence

import numpy as np

from research.records.queries import initial_factors, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed
from research.theory import profiles as theory

VANISHING = "Hochreiter 1991; Glorot & Bengio 2010"
SIGMOID = "Glorot & Bengio 2010: slope at most 1/4"
MEAN_FIELD = "Poole et al. 2016; Schoenholz et al. 2017; Yang & Schoenholz 2017"
RECTIFIER = "He, Zhang, Ren, Sun 2015, eq. 14; Hanin & Nica 2020"
SKIP = "He, Zhang, Ren, Sun 2016; Hayou et al. 2021"
SIGMA_W2 = 2.0  # init=he
WIDTH = 64
DEEPEST = 64
STEPS_PER_EPOCH = 10  # 1400 digits in batches of 128
PLAIN_SIGMOID = {"activation.kind": "sigmoid", "skip.kind": "none"}


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Every statement of the experiment, tested on all of its seeds."""
    return [
        _claim_sigmoid_vanishes(runs),
        _claim_sigmoid_bound(runs),
        _claim_theory_of_plain(runs),
        _claim_theory_of_skip(runs),
        _claim_critical_relu(runs),
        _claim_skip_keeps_gradient(runs),
        _claim_skip_trains(runs),
        _claim_sigmoid_stays_at_chance(runs),
    ]


def log_ratio(run: Run) -> float:
    """Ln of the first layer's squared gradient over the last layer's, at initialisation."""
    signal = run.profiles["signal_grad"][0].astype(float)
    return 2 * math.log(signal[0] / signal[-1])


def train_accuracies(runs: Sequence[Run]) -> list[float]:
    """The training accuracy of the last epoch, for each run."""
    return [run.info["final"]["train_accuracy"] for run in runs]


def largest(values: Sequence[float]) -> float:
    """The largest absolute value."""
    return float(np.max(np.abs(values)))


def _claim_sigmoid_vanishes(runs: Sequence[Run]) -> Claim:
    deep = where(runs, {**PLAIN_SIGMOID, "model.depth": DEEPEST})
    values = [math.exp(log_ratio(run)) for run in deep]
    return claim_on_every_seed(
        "plain sigmoid, depth 64, at initialisation: "
        "first layer's share of the last layer's squared gradient",
        source=VANISHING,
        values=values,
        below=1e-12,
    )


def _claim_sigmoid_bound(runs: Sequence[Run]) -> Claim:
    bound = SIGMA_W2 / 16
    values = []
    for depth in (16, DEEPEST):
        values += initial_factors(where(runs, {**PLAIN_SIGMOID, "model.depth": depth}))
    return claim(
        "plain sigmoid, depth 16 and 64, at initialisation: factor of the squared gradient a layer",
        source=SIGMOID,
        expected=f"≤ σ_w²/16 = {bound:g}",
        values=values,
        holds=max(values) <= bound,
    )


def _claim_theory_of_plain(runs: Sequence[Run]) -> Claim:
    """Three standard deviations of the mean log factor over L layers of width n, plus its drift.

    A layer's log factor has variance at most 5/n (He-ReLU) and drifts by −5/2n.
    """
    deviation = math.sqrt(5 / (WIDTH * DEEPEST))
    tolerance = 3 * deviation + 5 / (2 * WIDTH)
    return _claim_theory(runs, "none", tolerance, "3·√(5/nL) + 5/2n")


def _claim_theory_of_skip(runs: Sequence[Run]) -> Claim:
    """Three standard deviations of the mean log factor over L layers of width n.

    With the branch scaled by a = 1/√L a layer multiplies by ‖g + aJᵀg‖²/‖g‖². It fluctuates with
    the cross term 2a⟨g, Jᵀg⟩/‖g‖², of variance at most 4a²/n, so the mean over L layers deviates by
    2/(L√n).
    """
    tolerance = 6 / (DEEPEST * math.sqrt(WIDTH))
    return _claim_theory(runs, "inv_sqrt_depth", tolerance, "3·2/(L√n)")


def _claim_theory(
    runs: Sequence[Run],
    skip: str,
    tolerance: float,
    formula: str,
) -> Claim:
    deep = where(runs, {"skip.kind": skip, "model.depth": DEEPEST})
    values = []
    for run, factor in zip(deep, initial_factors(deep), strict=True):
        predicted = run.info["verdict"]["theory"]
        values.append(math.log(factor) - math.log(predicted))
    return claim(
        f"depth 64, skip={skip}, at initialisation: "
        "ln factor a layer minus mean-field theory, all activations",
        source=MEAN_FIELD,
        expected=f"difference within ±{tolerance:.3f} = {formula}",
        values=values,
        holds=largest(values) <= tolerance,
    )


def _claim_critical_relu(runs: Sequence[Run]) -> Claim:
    """All depths, in units of the standard deviation of the finite-width band."""
    values = []
    for run in where(runs, {"activation.kind": "relu", "skip.kind": "none"}):
        mean, deviation = theory.finite_width_band(run["model.depth"], run["model.width"])
        values.append((log_ratio(run) - mean) / deviation)
    return claim(
        "plain He-ReLU at initialisation: ln of the ratio, "
        "in standard deviations of the finite-width band",
        source=RECTIFIER,
        expected="within ±3 (mean −5L/2n, variance 5L/n)",
        values=values,
        holds=largest(values) <= 3,
    )


def _claim_skip_keeps_gradient(runs: Sequence[Run]) -> Claim:
    values = []
    for run in where(runs, {"skip.kind": "inv_sqrt_depth"}):
        ratios = _ratio_by_epoch(run)
        worst = np.argmax(np.abs(ratios))
        values.append(float(ratios[worst]))
    return claim(
        "with skip connections, every depth and activation: "
        "log₁₀ of the ratio, initially and in the worst epoch",
        source=SKIP,
        expected="within ±1 (one order of magnitude)",
        values=values,
        holds=largest(values) <= 1,
    )


def _ratio_by_epoch(run: Run) -> np.ndarray:
    """Log₁₀ of the first layer's squared gradient over the last's: initially, then by epoch.

    Logarithms are averaged over the 10 steps of an epoch, in which every example is seen once. Near
    the end a single batch's gradient comes from one or two hard examples, and says more about them
    than about the network.
    """
    signal = run.profiles["signal_grad"].astype(float)
    logs = 2 * np.log10(signal[:, 0] / signal[:, -1])
    epochs = logs.reshape(-1, STEPS_PER_EPOCH).mean(axis=1)
    return np.append(logs[0], epochs)


def _claim_skip_trains(runs: Sequence[Run]) -> Claim:
    deep = where(runs, {"skip.kind": "inv_sqrt_depth", "model.depth": DEEPEST})
    values = train_accuracies(deep)
    return claim_on_every_seed(
        "depth 64 with skip connections, every activation: training accuracy",
        source=SKIP,
        values=values,
        above=0.95,
    )


def _claim_sigmoid_stays_at_chance(runs: Sequence[Run]) -> Claim:
    """Chance is the most frequent class's share; 1.5 times that allows for the last batches."""
    deep = where(runs, {**PLAIN_SIGMOID, "model.depth": DEEPEST})
    values = train_accuracies(deep)
    return claim_on_every_seed(
        "plain sigmoid, depth 64: training accuracy stays at chance (0.1)",
        source=VANISHING,
        values=values,
        at_most=0.15,
    )
