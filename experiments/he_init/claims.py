"""Claims about He's against Xavier's initialisation; their thresholds were set before the runs."""

import math
from collections.abc import Sequence

import numpy as np

from research.records.queries import (
    at_best_rate,
    by_seed,
    final_by_seed,
    initial_factors,
    where,
    window_means,
)
from research.records.runs import Run
from research.reproduce.claims import Claim, claim, claim_on_every_seed

# σ_w²
XAVIER = 1
HE = 2
SOURCE = "He, Zhang, Ren, Sun 2015, Fig. 2 and 3"
WINDOW = 10  # training steps that a smoothed loss is the mean of: one epoch


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Losses of 30, 22 and 8 layers at the best learning rate; the gradient at initialisation."""
    return [
        _stalls(runs),
        _loss_at_most(runs, 30, HE, 1.0),
        _loss_at_most(runs, 22, HE, 0.3),
        _xavier_ends_higher(runs),
        _xavier_learns_later(runs),
        _loss_at_most(runs, 8, XAVIER, 0.05),
        _loss_at_most(runs, 8, HE, 0.05),
        _gradient(runs, XAVIER),
        _gradient(runs, HE),
    ]


def select_best(
    runs: Sequence[Run],
    layers: int,
    variance: float,
) -> list[Run]:
    """The runs at the learning rate with the lowest final loss.

    Args:
        runs: all runs of the experiment.
        layers: hidden layers, of which the embedding is one.
        variance: σ_w².
    """
    settings = {"model.depth": layers - 1, "init.sigma_w": math.sqrt(variance)}
    return at_best_rate(where(runs, settings))


def final_losses(
    runs: Sequence[Run],
    layers: int,
    variance: float,
) -> dict[int, float]:
    """The training loss of the last epoch at the best learning rate, by seed."""
    return final_by_seed(select_best(runs, layers, variance), "train_loss")


def _name(variance: float) -> str:
    return "He" if variance == HE else "Xavier"


def _stalls(runs: Sequence[Run]) -> Claim:
    losses = list(final_losses(runs, 30, XAVIER).values())
    return claim_on_every_seed(
        "30 layers, Xavier, best learning rate: training loss stays near ln 10 = 2.303",
        source=SOURCE,
        values=losses,
        at_least=2.2,
    )


def _loss_at_most(
    runs: Sequence[Run],
    layers: int,
    variance: float,
    limit: float,
) -> Claim:
    losses = list(final_losses(runs, layers, variance).values())
    return claim_on_every_seed(
        f"{layers} layers, {_name(variance)}, best learning rate: training loss",
        source=SOURCE,
        values=losses,
        at_most=limit,
    )


def _xavier_ends_higher(runs: Sequence[Run]) -> Claim:
    xavier = final_losses(runs, 22, XAVIER)
    he = final_losses(runs, 22, HE)
    ratios = [xavier[seed] / he[seed] for seed in he]
    return claim_on_every_seed(
        "22 layers, best learning rates: training loss, Xavier's over He's",
        source=SOURCE,
        values=ratios,
        at_least=3,
    )


def _xavier_learns_later(runs: Sequence[Run]) -> Claim:
    xavier = by_seed(select_best(runs, 22, XAVIER))
    he = by_seed(select_best(runs, 22, HE))
    delays = [_steps_to_half(xavier[seed]) - _steps_to_half(he[seed]) for seed in he]
    return claim_on_every_seed(
        "22 layers, best learning rates: "
        "steps by which Xavier halves ln 10 later than He (300 where it never does)",
        source=SOURCE,
        values=delays,
        above=0,
    )


def _steps_to_half(run: Run) -> int:
    """The steps until the smoothed loss is below half of ln 10; all steps if it never is."""
    smoothed = window_means(run.metrics["train_loss"], WINDOW)
    below = np.flatnonzero(smoothed < math.log(10) / 2)
    if not len(below):
        return run["train.steps"]
    return WINDOW * int(below[0])


def _gradient(runs: Sequence[Run], variance: float) -> Claim:
    """The tolerance allows for finite width.

    At width n = 64 and L = 29 it is the drift −5/2n a layer and three standard deviations √(5/nL)
    of its mean. The learning rate does not matter before the first step.
    """
    group = select_best(runs, 30, variance)
    expected = math.log(variance / 2)
    errors = [math.log(factor) - expected for factor in initial_factors(group)]
    tolerance = 3 * math.sqrt(5 / (64 * 29)) + 5 / (2 * 64)
    return claim(
        f"30 layers, {_name(variance)}, at initialisation: "
        "ln factor of the squared gradient a layer, minus ln σ_w²/2",
        source="He, Zhang, Ren, Sun 2015, eq. 14; finite width: Hanin & Nica 2020",
        expected=f"within ±{tolerance:.3f} = 3·√(5/nL) + 5/2n",
        values=errors,
        holds=max(map(abs, errors)) <= tolerance,
    )
