"""Thresholds of the best learning rate of language models by depth, set before any run."""

from collections.abc import Sequence

import numpy as np

from research.records.queries import final_by_seed, setting_values, where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim_on_every_seed

DEY = "Dey et al. 2025, Fig. 1"
SHALLOW = 3
DEEP = 48


def claims(runs: Sequence[Run]) -> list[Claim]:
    """What the best rate of a shallow model is worth in a deep one."""
    return [_standard_moves(runs), _transfers(runs)]


def losses(
    runs: Sequence[Run],
    parametrization: str,
    depth: int,
) -> np.ndarray:
    """Held-out losses [seeds, rates] of the models with a parametrization and a depth.

    Args:
        runs: all runs.
        parametrization: its name; at the base depth it changes nothing.
        depth: the blocks.
    """
    name = "standard" if depth == SHALLOW else parametrization
    group = where(runs, {"model.parametrization": name, "model.depth": depth})
    columns = []
    for rate in setting_values(group, "optimizer.learning_rate"):
        of_rate = final_by_seed(where(group, {"optimizer.learning_rate": rate}), "eval_loss")
        columns.append([of_rate[seed] for seed in sorted(of_rate)])
    return np.array(columns).T


def _standard_moves(runs: Sequence[Run]) -> Claim:
    rates = np.log2(setting_values(runs, "optimizer.learning_rate"))
    shallow = rates[np.argmin(losses(runs, "standard", SHALLOW), axis=1)]
    deep = rates[np.argmin(losses(runs, "standard", DEEP), axis=1)]
    return claim_on_every_seed(
        "standard: log₂ of the best rate of 3 blocks minus that of 48",
        source=DEY,
        values=(shallow - deep).tolist(),
        at_least=1,
    )


def _transfers(runs: Sequence[Run]) -> Claim:
    chosen = np.argmin(losses(runs, "standard", SHALLOW), axis=1)[:, None]
    scaled = np.take_along_axis(losses(runs, "complete_p", DEEP), chosen, axis=1)
    usual = np.take_along_axis(losses(runs, "standard", DEEP), chosen, axis=1)
    return claim_on_every_seed(
        "48 blocks at the best rate of 3: held-out loss with complete_p minus that with standard",
        source=DEY,
        values=(scaled - usual)[:, 0].tolist(),
        below=0,
    )
