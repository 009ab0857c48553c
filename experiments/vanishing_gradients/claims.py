"""Thresholds were set before the runs: from theory where it has a number, from the task's chance level elsewhere."""

import math
from collections.abc import Sequence

import numpy as np

from research.records.runs import Run
from research.reproduce.claims import Claim, claim
from research.theory import profiles as theory

SOURCES = {
    "vanishing": "Hochreiter 1991; Glorot & Bengio 2010",
    "sigmoid": "Glorot & Bengio 2010: slope at most 1/4",
    "relu": "He, Zhang, Ren, Sun 2015, eq. 14; Hanin & Nica 2020",
    "skip": "He, Zhang, Ren, Sun 2016; Hayou et al. 2021",
}
SIGMA_W2 = 2.0  # init=he
STEPS_PER_EPOCH = 10  # 1400 digits in batches of 128


def chosen(runs: Sequence[Run], **settings: object) -> list[Run]:
    """The runs with these settings; ``activation`` and ``skip`` by kind, ``depth`` by number."""
    paths = {"activation": "activation.kind", "skip": "skip.kind", "depth": "model.depth"}
    return [
        run for run in runs if all(run[paths[name]] == value for name, value in settings.items())
    ]


def log_ratio(run: Run, row: int = 0) -> float:
    """Ln of the first layer's squared gradient over the last layer's, at one measured step."""
    signal = run.profiles["signal_grad"][row].astype(float)
    return 2 * math.log(signal[0] / signal[-1])


def final(run: Run, name: str) -> float:
    """A final number of ``run.json``."""
    return run.info["final"][name]


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Every statement of the experiment, tested on all of its seeds."""
    return [
        _vanishing_sigmoid(runs),
        _sigmoid_bound(runs),
        _theory(runs, "none"),
        _theory(runs, "inv_sqrt_depth"),
        _critical_relu(runs),
        _skip_ratio(runs),
        _trains(runs),
        _chance(runs),
    ]


def _vanishing_sigmoid(runs: Sequence[Run]) -> Claim:
    values = [
        math.exp(log_ratio(run))
        for run in chosen(runs, activation="sigmoid", skip="none", depth=64)
    ]
    return claim(
        "plain sigmoid, depth 64, at initialisation: first layer's share of the last layer's squared gradient",
        source=SOURCES["vanishing"],
        expected="< 1e-12 on every seed",
        values=values,
        holds=max(values) < 1e-12,
    )


def _sigmoid_bound(runs: Sequence[Run]) -> Claim:
    values = [
        _factor(run)
        for depth in (16, 64)
        for run in chosen(runs, activation="sigmoid", skip="none", depth=depth)
    ]
    return claim(
        "plain sigmoid, depth 16 and 64, at initialisation: factor of the squared gradient a layer",
        source=SOURCES["sigmoid"],
        expected=f"≤ σ_w²/16 = {SIGMA_W2 / 16:g}",
        values=values,
        holds=max(values) <= SIGMA_W2 / 16,
    )


def _factor(run: Run) -> float:
    return run.info["verdict"]["initial"]["factor_per_layer"]


def _theory(runs: Sequence[Run], skip: str) -> Claim:
    """Three standard deviations of the mean log factor over L = 64 layers at width n = 64.

    Plain: a layer's log factor has variance at most 5/n (He-ReLU) and drifts by −5/2n. With the branch scaled by
    a = 1/√L a layer multiplies by ‖g + aJᵀg‖²/‖g‖²; its fluctuation is that of the cross term 2a⟨g, Jᵀg⟩/‖g‖², of
    variance at most 4a²/n, so the mean over L layers deviates by 2/(L√n).
    """
    deep = [run for run in chosen(runs, skip=skip, depth=64)]
    values = [math.log(_factor(run)) - math.log(run.info["verdict"]["theory"]) for run in deep]
    plain = skip == "none"
    formula = "3·√(5/nL) + 5/2n" if skip == "none" else "3·2/(L√n)"
    tolerance = 3 * math.sqrt(5 / (64 * 64)) + 5 / (2 * 64) if plain else 6 / (64 * math.sqrt(64))
    return claim(
        f"depth 64, skip={skip}, at initialisation: ln factor a layer minus mean-field theory, all activations",
        source="Poole et al. 2016; Schoenholz et al. 2017; Yang & Schoenholz 2017",
        expected=f"difference within ±{tolerance:.3f} = {formula}",
        values=values,
        holds=bool(np.max(np.abs(values)) <= tolerance),
    )


def _critical_relu(runs: Sequence[Run]) -> Claim:
    """In units of the band's standard deviation, over all depths."""
    values = []
    for run in chosen(runs, activation="relu", skip="none"):
        mean, deviation = theory.finite_width_band(run["model.depth"], run["model.width"])
        values.append((log_ratio(run) - mean) / deviation)
    return claim(
        "plain He-ReLU at initialisation: ln of the ratio, in standard deviations of the finite-width band",
        source=SOURCES["relu"],
        expected="within ±3 (mean −5L/2n, variance 5L/n)",
        values=values,
        holds=bool(np.max(np.abs(values)) <= 3),
    )


def _skip_ratio(runs: Sequence[Run]) -> Claim:
    """The worst epoch of each run.

    Logarithms are averaged over the 10 steps of an epoch, in which every example is seen once: near the end a single
    batch's gradient comes from one or two hard examples, and says more of them than of the network.
    """
    values = []
    for run in chosen(runs, skip="inv_sqrt_depth"):
        signal = run.profiles["signal_grad"].astype(float)
        logs = 2 * np.log10(signal[:, 0] / signal[:, -1])
        epochs = np.array([logs[0], *logs.reshape(-1, STEPS_PER_EPOCH).mean(axis=1)])
        values.append(float(epochs[np.argmax(np.abs(epochs))]))
    return claim(
        "with skip connections, every depth and activation: log₁₀ of the ratio, initially and in the worst epoch",
        source=SOURCES["skip"],
        expected="within ±1 (one order of magnitude)",
        values=values,
        holds=bool(np.max(np.abs(values)) <= 1),
    )


def _trains(runs: Sequence[Run]) -> Claim:
    values = [final(run, "train_accuracy") for run in chosen(runs, skip="inv_sqrt_depth", depth=64)]
    return claim(
        "depth 64 with skip connections, every activation: training accuracy",
        source=SOURCES["skip"],
        expected="> 0.95 on every seed",
        values=values,
        holds=min(values) > 0.95,
    )


def _chance(runs: Sequence[Run]) -> Claim:
    """Chance is the most frequent class's share; 1.5 times that leaves room for the last epoch's batches."""
    values = [
        final(run, "train_accuracy")
        for run in chosen(runs, activation="sigmoid", skip="none", depth=64)
    ]
    return claim(
        "plain sigmoid, depth 64: training accuracy stays at chance (0.1)",
        source=SOURCES["vanishing"],
        expected="≤ 0.15 on every seed",
        values=values,
        holds=max(values) <= 0.15,
    )
