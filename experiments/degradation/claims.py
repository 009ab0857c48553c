"""Thresholds of the degradation problem and its cure, set before the runs."""

from collections.abc import Callable, Sequence

from research.records.queries import at_best_rate, by_seed, final, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

PLAIN = "none"
RESIDUAL = "inv_sqrt_depth"
SOURCE = "He, Zhang, Ren, Sun 2016, Fig. 1, 4 and 6"
RATE = 0.001
Pick = Callable[[Sequence[Run]], list[Run]]


def loss(run: Run) -> float:
    """The training loss of the last epoch."""
    return final(run, "train_loss")


def losses(runs: Sequence[Run], skip: str, depth: int, pick: Pick) -> dict[int, float]:
    """By seed, without normalisation, at the learning rate that ``pick`` picks."""
    arm = where(runs, {"norm.kind": "none", "skip.kind": skip, "model.depth": depth})
    return {seed: loss(run) for seed, run in by_seed(pick(arm)).items()}


def at_rate(arm: Sequence[Run]) -> list[Run]:
    """The runs at Adam's usual learning rate."""
    return where(arm, {"optimizer.learning_rate": RATE})


def best(arm: Sequence[Run]) -> list[Run]:
    """The runs at the learning rate that ends lowest."""
    return at_best_rate(arm)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Plain and residual losses at one learning rate, and the plain ones each at its best."""
    return [
        *_degrades(runs, at_rate, f"learning rate {RATE:g}"),
        *_degrades(runs, best, "each at its best learning rate"),
        _cured(runs, at_rate, f"learning rate {RATE:g}"),
        _cured(runs, best, "best learning rate"),
        _order(runs),
    ]


def _degrades(runs: Sequence[Run], pick: Pick, at: str) -> list[Claim]:
    shallow, deep = (losses(runs, PLAIN, depth, pick) for depth in (8, 64))
    ratios = [deep[seed] / shallow[seed] for seed in deep]
    return [
        claim(
            f"{at}: training loss, plain-64 over plain-8",
            source=SOURCE,
            expected="≥ 20 on every seed",
            values=ratios,
            holds=min(ratios) >= 20,
        ),
        claim(
            f"{at}: training loss of plain-64",
            source=SOURCE,
            expected="≥ 0.3 on every seed",
            values=list(deep.values()),
            holds=min(deep.values()) >= 0.3,
        ),
    ]


def _cured(runs: Sequence[Run], pick: Pick, at: str) -> Claim:
    values = list(losses(runs, RESIDUAL, 64, pick).values())
    return claim(
        f"{at}: training loss of residual-64",
        source=SOURCE,
        expected="≤ 0.05 on every seed",
        values=values,
        holds=max(values) <= 0.05,
    )


def _order(runs: Sequence[Run]) -> Claim:
    shallow, deep = (losses(runs, RESIDUAL, depth, at_rate) for depth in (8, 64))
    ratios = [deep[seed] / shallow[seed] for seed in deep]
    return claim(
        f"learning rate {RATE:g}: training loss, residual-64 over residual-8",
        source=SOURCE,
        expected="≤ 1 on every seed",
        values=ratios,
        holds=max(ratios) <= 1,
    )
