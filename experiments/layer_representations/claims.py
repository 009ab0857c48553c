"""Claims about what the layers of a trained and of a random network show of the classes.

Their thresholds were set before the runs.
"""

from collections.abc import Sequence

import numpy as np

from research.records.queries import where
from research.records.runs import Run
from research.reproduce.claims import Claim, claim_on_every_seed

ALAIN = "Alain & Bengio 2016"
PAPYAN = "Papyan, Han, Donoho 2020"
RANDOM = 0  # which inspection: before the first step
TRAINED = -1
TOLERANCE = 0.01  # by which the error of a probe may rise from one layer to the next


def claims(runs: Sequence[Run]) -> list[Claim]:
    """The errors of linear probes and the spread of the classes, trained and random."""
    networks = where(runs, {"model.kind": "mlp"})
    return [
        _probes_improve(networks),
        _random_layers_lose(networks),
        _held_out_improves(networks),
        _classes_contract(networks),
        _random_classes_do_not(networks),
    ]


def greatest_rise(errors: np.ndarray) -> float:
    """The greatest increase of the errors [N+1] from one layer to the next; 0 if there is none."""
    return float(max(0.0, np.max(np.diff(errors))))


def last_over_first(values: np.ndarray) -> float:
    """The last layer's value over that of the first one."""
    return float(values[-1] / values[0])


def _probes_improve(runs: Sequence[Run]) -> Claim:
    rises = [greatest_rise(run.inspections["probe_error"][TRAINED]) for run in runs]
    return claim_on_every_seed(
        "trained: greatest rise of a linear probe's training error from one layer to the next",
        source=ALAIN,
        values=rises,
        at_most=TOLERANCE,
    )


def _random_layers_lose(runs: Sequence[Run]) -> Claim:
    ratios = [last_over_first(run.inspections["probe_error"][RANDOM]) for run in runs]
    return claim_on_every_seed(
        "random weights: a linear probe's training error in the last layer over that in the first",
        source=ALAIN,
        values=ratios,
        at_least=2,
    )


def _held_out_improves(runs: Sequence[Run]) -> Claim:
    gains = []
    for run in runs:
        errors = run.inspections["probe_eval_error"]
        gains.append(float(errors[RANDOM][-1] - errors[TRAINED][-1]))
    return claim_on_every_seed(
        "last layer, held-out digits: error of a linear probe, random minus trained",
        source=ALAIN,
        values=gains,
        above=0,
    )


def _classes_contract(runs: Sequence[Run]) -> Claim:
    ratios = [last_over_first(run.inspections["class_spread"][TRAINED]) for run in runs]
    return claim_on_every_seed(
        "trained: variance within classes over variance between classes, last layer over first",
        source=PAPYAN,
        values=ratios,
        below=1,
    )


def _random_classes_do_not(runs: Sequence[Run]) -> Claim:
    ratios = []
    for run in runs:
        spreads = run.inspections["class_spread"]
        ratios.append(float(spreads[TRAINED][-1] / spreads[RANDOM][-1]))
    return claim_on_every_seed(
        "last layer: the same variance ratio, trained over random",
        source=PAPYAN,
        values=ratios,
        below=0.5,
    )
