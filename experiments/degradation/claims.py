"""Claims about the degradation problem and its cure; their thresholds were set before the runs."""

from collections.abc import Callable, Sequence

from research.records.queries import at_best_rate, final_by_seed, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim_on_every_seed

PLAIN = "none"
RESIDUAL = "inv_sqrt_depth"
SOURCE = "He, Zhang, Ren, Sun 2016, Fig. 1, 4 and 6"
RATE = 0.001  # Adam's usual learning rate
SelectRate = Callable[[Sequence[Run]], list[Run]]


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Plain and residual losses, at one learning rate for all and at the best of each depth."""
    return [
        *_degrades(runs, at_usual_rate, f"learning rate {RATE:g}"),
        *_degrades(runs, at_best_rate, "each at its best learning rate"),
        _cured(runs, at_usual_rate, f"learning rate {RATE:g}"),
        _cured(runs, at_best_rate, "best learning rate"),
        _order(runs),
    ]


def at_usual_rate(runs: Sequence[Run]) -> list[Run]:
    """The runs at Adam's usual learning rate."""
    return where(runs, {"optimizer.learning_rate": RATE})


def losses(
    runs: Sequence[Run],
    skip: str,
    depth: int,
    select_rate: SelectRate,
) -> dict[int, float]:
    """Training losses of the last epoch by seed, without normalisation.

    Args:
        runs: all runs of the experiment.
        skip: the kind of skip connection.
        depth: the number of layers.
        select_rate: picks the runs of one learning rate.
    """
    group = where(runs, {"norm.kind": "none", "skip.kind": skip, "model.depth": depth})
    return final_by_seed(select_rate(group), "train_loss")


def divide_by_seed(numerators: dict[int, float], denominators: dict[int, float]) -> list[float]:
    """The ratio of two losses for each seed."""
    return [numerators[seed] / denominators[seed] for seed in numerators]


def _degrades(
    runs: Sequence[Run],
    select_rate: SelectRate,
    rate_name: str,
) -> list[Claim]:
    shallow = losses(runs, PLAIN, 8, select_rate)
    deep = losses(runs, PLAIN, 64, select_rate)
    ratios = divide_by_seed(deep, shallow)
    return [
        claim_on_every_seed(
            f"{rate_name}: training loss, plain-64 over plain-8",
            source=SOURCE,
            values=ratios,
            at_least=20,
        ),
        claim_on_every_seed(
            f"{rate_name}: training loss of plain-64",
            source=SOURCE,
            values=list(deep.values()),
            at_least=0.3,
        ),
    ]


def _cured(
    runs: Sequence[Run],
    select_rate: SelectRate,
    rate_name: str,
) -> Claim:
    values = list(losses(runs, RESIDUAL, 64, select_rate).values())
    return claim_on_every_seed(
        f"{rate_name}: training loss of residual-64",
        source=SOURCE,
        values=values,
        at_most=0.05,
    )


def _order(runs: Sequence[Run]) -> Claim:
    shallow = losses(runs, RESIDUAL, 8, at_usual_rate)
    deep = losses(runs, RESIDUAL, 64, at_usual_rate)
    ratios = divide_by_seed(deep, shallow)
    return claim_on_every_seed(
        f"learning rate {RATE:g}: training loss, residual-64 over residual-8",
        source=SOURCE,
        values=ratios,
        at_most=1,
    )
