"""Thresholds of what a shortcut may be multiplied by, set before the runs."""

from collections.abc import Mapping, Sequence

from research.records.queries import at_best_rate, final_values, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim_on_every_seed

TABLE = "He, Zhang, Ren, Sun 2016 (Identity mappings), Table 1"
HIGHWAY = "Srivastava, Greff, Schmidhuber 2015; He et al. 2016, Table 1"


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Constant shortcuts of 1 and 0.5, gates of bias −1 and −5."""
    identity = final_losses(runs, {"skip.kind": "scaled", "skip.shortcut_scale": 1.0})
    half = final_losses(runs, {"skip.kind": "scaled", "skip.shortcut_scale": 0.5})
    open_gate = final_losses(runs, {"skip.kind": "highway", "skip.gate_bias": -1})
    closed_gate = final_losses(runs, {"skip.kind": "highway", "skip.gate_bias": -5})
    return [
        _claim_below("identity", TABLE, identity, 0.01),
        _claim_above("shortcut times 0.5", TABLE, half, 1.5),
        _claim_above("exclusive gate of bias −1", HIGHWAY, open_gate, 1.0),
        _claim_below("exclusive gate of bias −5", HIGHWAY, closed_gate, 0.1),
    ]


def final_losses(runs: Sequence[Run], settings: Mapping[str, object]) -> list[float]:
    """The training loss of the last epoch by seed, at the learning rate that ends lowest."""
    best = at_best_rate(where(runs, settings))
    return final_values(best, "train_loss")


def _claim_below(
    name: str,
    source: str,
    losses: Sequence[float],
    limit: float,
) -> Claim:
    return claim_on_every_seed(
        f"32 layers, {name}, best learning rate: training loss",
        source=source,
        values=losses,
        at_most=limit,
    )


def _claim_above(
    name: str,
    source: str,
    losses: Sequence[float],
    limit: float,
) -> Claim:
    return claim_on_every_seed(
        f"32 layers, {name}, best learning rate: training loss",
        source=source,
        values=losses,
        at_least=limit,
    )
