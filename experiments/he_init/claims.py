"""Thresholds of He's against Xavier's initialisation, set before the runs."""

import math
from collections.abc import Sequence

import numpy as np

from research.records.queries import at_best_rate, by_seed, final, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

# σ_w²
XAVIER = 1
HE = 2
SOURCE = "He, Zhang, Ren, Sun 2015, Fig. 2 and 3"
STEPS = 10  # of a curve's means: an epoch


def of_variance(runs: Sequence[Run], layers: int, variance: float) -> list[Run]:
    """The runs with ``layers`` hidden layers, of which the embedding is one, and this σ_w²."""
    return where(runs, {"model.depth": layers - 1, "init.sigma_w": math.sqrt(variance)})


def best(runs: Sequence[Run], layers: int, variance: float) -> list[Run]:
    """Those at the learning rate that ends lowest."""
    return at_best_rate(of_variance(runs, layers, variance))


def loss(run: Run) -> float:
    """The training loss of the last epoch."""
    return final(run, "train_loss")


def smoothed(run: Run) -> np.ndarray:
    """The training loss in means of ten steps."""
    losses = run.metrics["train_loss"]
    return losses[: len(losses) // STEPS * STEPS].reshape(-1, STEPS).mean(axis=1)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Losses at the best learning rate for 30, 22 and 8 layers, and the gradient at initialisation."""
    return [
        _at_least(runs, 30, XAVIER, 2.2),
        _at_most(runs, 30, HE, 1.0),
        _at_most(runs, 22, HE, 0.3),
        _apart(runs),
        _earlier(runs),
        _at_most(runs, 8, XAVIER, 0.05),
        _at_most(runs, 8, HE, 0.05),
        _gradient(runs, XAVIER),
        _gradient(runs, HE),
    ]


def _name(variance: float) -> str:
    return "He" if variance == HE else "Xavier"


def _at_most(runs: Sequence[Run], layers: int, variance: float, limit: float) -> Claim:
    values = [loss(run) for run in best(runs, layers, variance)]
    return claim(
        f"{layers} layers, {_name(variance)}, best learning rate: training loss",
        source=SOURCE,
        expected=f"≤ {limit:g} on every seed",
        values=values,
        holds=max(values) <= limit,
    )


def _at_least(runs: Sequence[Run], layers: int, variance: float, limit: float) -> Claim:
    values = [loss(run) for run in best(runs, layers, variance)]
    return claim(
        f"{layers} layers, {_name(variance)}, best learning rate: training loss stays near ln 10 = 2.303",
        source=SOURCE,
        expected=f"≥ {limit:g} on every seed",
        values=values,
        holds=min(values) >= limit,
    )


def _apart(runs: Sequence[Run]) -> Claim:
    xavier = by_seed(best(runs, 22, XAVIER))
    he = by_seed(best(runs, 22, HE))
    ratios = [loss(xavier[seed]) / loss(he[seed]) for seed in he]
    return claim(
        "22 layers, best learning rates: training loss, Xavier's over He's",
        source=SOURCE,
        expected="≥ 3 on every seed",
        values=ratios,
        holds=min(ratios) >= 3,
    )


def _earlier(runs: Sequence[Run]) -> Claim:
    xavier = by_seed(best(runs, 22, XAVIER))
    he = by_seed(best(runs, 22, HE))
    later = [_halved(xavier[seed]) - _halved(he[seed]) for seed in he]
    return claim(
        "22 layers, best learning rates: steps by which Xavier halves ln 10 later than He (300 where it never does)",
        source=SOURCE,
        expected="> 0 on every seed",
        values=later,
        holds=min(later) > 0,
    )


def _halved(run: Run) -> int:
    below = np.flatnonzero(smoothed(run) < math.log(10) / 2)
    return STEPS * int(below[0]) if len(below) else run["train.steps"]


def _gradient(runs: Sequence[Run], variance: float) -> Claim:
    """The drift −5/2n a layer and three standard deviations √(5/nL) of its mean, at width n = 64 and L = 29."""
    once = by_seed(
        best(runs, 30, variance)
    )  # before the first step the learning rate does not matter
    factors = [run.info["verdict"]["initial"]["factor_per_layer"] for run in once.values()]
    values = [math.log(factor) - math.log(variance / 2) for factor in factors]
    tolerance = 3 * math.sqrt(5 / (64 * 29)) + 5 / (2 * 64)
    return claim(
        f"30 layers, {_name(variance)}, at initialisation: ln factor of the squared gradient a layer, minus ln σ_w²/2",
        source="He, Zhang, Ren, Sun 2015, eq. 14; finite width: Hanin & Nica 2020",
        expected=f"within ±{tolerance:.3f} = 3·√(5/nL) + 5/2n",
        values=values,
        holds=max(map(abs, values)) <= tolerance,
    )
