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
    intercept=2.46,
    weights={
        "exploding": 2.2,
        "collapse": 0.72,
        "slow": 1.94,
        "large_step": 0.45,
        "overshoot": 1.85,
        "start": 1.73,
        "lost": 2.33,
    },
)
WITH_TRIAL = Coefficients(
    intercept=5.97,
    weights={
        "exploding": 1.71,
        "collapse": 0.71,
        "slow": 1.24,
        "overshoot": 0.22,
        "start": 0.56,
        "lost": 2.68,
        "trial": 4.5,
    },
)
