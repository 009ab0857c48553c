"""The numbers of the model that predicts whether a network trains.

They were fitted to networks that were measured and trained for this purpose, and judged on others:
see ``experiments/predict``. ``python experiments/predict/fit.py`` computes them again and prints
this table.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Coefficients:
    """A logistic model.

    Attributes:
        intercept: the logarithm of the odds of a network that nothing speaks against.
        weights: by how much one unit of a feature lowers it.
    """

    intercept: float
    weights: Mapping[str, float]


WITHOUT_TRIAL = Coefficients(
    intercept=3.43,
    weights={
        "collapse": 2.45,
        "scattered": 9.0,
        "slow": 3.16,
        "alike": 2.11,
        "overshoot": 3.3,
        "start": 2.29,
        "lost": 3.44,
    },
)
WITH_TRIAL = Coefficients(
    intercept=14.84,
    weights={
        "collapse": 1.47,
        "scattered": 1.96,
        "slow": 0.7,
        "alike": 2.19,
        "overshoot": 0.47,
        "start": 2.68,
        "lost": 4.84,
        "trial": 10.28,
        "stalled": 3.2,
        "rough": 10.52,
    },
)
