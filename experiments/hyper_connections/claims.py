"""Thresholds of what mixing does to several residual streams, set before the runs."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import final_values, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed
from research.theory.streams import CompositeGain, composite_gain

XIE = "Xie et al. 2025"
ZHU = "Zhu et al. 2024"
NOISE = 0.3
GUESSING = 2.303


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The composite gain before and after training, and what arrives at the first layer."""
    noisy = where(runs, {"skip.mixing_noise": NOISE})
    free = where(noisy, {"skip.kind": "hyper"})
    bounded = where(noisy, {"skip.kind": "mhc"})
    return [
        _free_gain(free),
        _bounded_gain(bounded, time=0),
        _bounded_gain(bounded, time=-1),
        _bounded_norm(bounded),
        _free_gradient(free),
        _bounded_gradient(bounded),
        _identity_gain(runs),
        _trains(bounded),
    ]


def gain_of(run: Run, time: int) -> CompositeGain:
    """The gain of the product of all mixing matrices: ``time`` 0 before training, -1 after."""
    return composite_gain(run.inspections["stream_mixing"][time])


def gradient_factor(run: Run) -> float:
    """The norm of the gradient at the first layer's input over that at the last one's output."""
    signal = run.profiles["signal_grad"][0].astype(float)
    return float(signal[0] / signal[-1])


def _free_gain(runs: Sequence[Run]) -> Claim:
    values = [gain_of(run, 0).forward for run in runs]
    return claim(
        f"60 free mixings I + {NOISE}·G: greatest row sum of their product",
        source=f"{XIE}, §3.1",
        expected="median ≥ 50",
        values=values,
        holds=float(np.median(values)) >= 50,
    )


def _bounded_gain(runs: Sequence[Run], time: int) -> Claim:
    gains = [gain_of(run, time) for run in runs]
    values = [max(gain.forward, gain.backward) for gain in gains]
    when = "before training" if time == 0 else "after training"
    return claim_on_every_seed(
        f"60 doubly stochastic mixings, {when}: greatest row or column sum of their product",
        source=f"{XIE}, §4.1",
        values=values,
        at_most=1.2,
    )


def _bounded_norm(runs: Sequence[Run]) -> Claim:
    values = [gain_of(run, -1).spectral for run in runs]
    return claim_on_every_seed(
        "60 doubly stochastic mixings, after training: spectral norm of their product",
        source=f"{XIE}, §4.1",
        values=values,
        at_most=1.01,
    )


def _free_gradient(runs: Sequence[Run]) -> Claim:
    values = [gradient_factor(run) for run in runs]
    return claim_on_every_seed(
        "60 layers, free mixing, initially: gradient at the first layer over that at the last",
        source=XIE,
        values=values,
        at_least=30,
    )


def _bounded_gradient(runs: Sequence[Run]) -> Claim:
    values = [gradient_factor(run) for run in runs]
    return claim(
        "60 layers, doubly stochastic mixing, initially: the same",
        source=XIE,
        expected="0.5 to 20 on every seed",
        values=values,
        holds=min(values) >= 0.5 and max(values) <= 20,
    )


def _identity_gain(runs: Sequence[Run]) -> Claim:
    group = where(runs, {"skip.kind": "hyper", "skip.mixing_noise": 0.0})
    values = [gain_of(run, 0).forward for run in group]
    return claim(
        "60 free mixings without noise, before training: greatest row sum of their product",
        source=f"{ZHU}, eq. 14",
        expected="exactly 1: the shortcut of each stream is the identity",
        values=values,
        holds=all(value == 1 for value in values),
    )


def _trains(runs: Sequence[Run]) -> Claim:
    values = final_values(runs, "train_loss")
    return claim(
        "60 layers, doubly stochastic mixing: training loss of the last epoch",
        source=XIE,
        expected=f"≤ 1 on every seed; guessing has {GUESSING}",
        values=values,
        holds=max(values) <= 1,
    )
