"""Thresholds of what a shortcut may be multiplied by, set before the runs."""

from collections.abc import Sequence

from research.records.queries import at_best_rate, final, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim

TABLE = "He, Zhang, Ren, Sun 2016 (Identity mappings), Table 1"
HIGHWAY = "Srivastava, Greff, Schmidhuber 2015; He et al. 2016, Table 1"


def best(runs: Sequence[Run], **settings: object) -> list[float]:
    """The training loss of the last epoch by seed, at the learning rate that ends lowest."""
    arm = where(runs, {f"skip.{name}": value for name, value in settings.items()})
    chosen = at_best_rate(arm)
    return [final(run, "train_loss") for run in chosen]


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Constant shortcuts of 1 and 0.5, gates of bias −1 and −5."""
    return [
        _below("identity", TABLE, best(runs, kind="scaled", shortcut_scale=1.0), 0.01),
        _above("shortcut times 0.5", TABLE, best(runs, kind="scaled", shortcut_scale=0.5), 1.5),
        _above("exclusive gate of bias −1", HIGHWAY, best(runs, kind="highway", gate_bias=-1), 1.0),
        _below("exclusive gate of bias −5", HIGHWAY, best(runs, kind="highway", gate_bias=-5), 0.1),
    ]


def _below(name: str, source: str, losses: Sequence[float], limit: float) -> Claim:
    return claim(
        f"32 layers, {name}, best learning rate: training loss",
        source=source,
        expected=f"≤ {limit:g} on every seed",
        values=losses,
        holds=max(losses) <= limit,
    )


def _above(name: str, source: str, losses: Sequence[float], limit: float) -> Claim:
    return claim(
        f"32 layers, {name}, best learning rate: training loss",
        source=source,
        expected=f"≥ {limit:g} on every seed",
        values=losses,
        holds=min(losses) >= limit,
    )
