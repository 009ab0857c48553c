"""Statistics of runs that several experiments' claims use."""

import math

import numpy as np
import pytest

from research.records.runs import Run
from research.reproduce.claims import log_factor


class MemoryRun(Run):
    """A run with one measured step, without files."""

    def __init__(self, **profiles):
        self.profiles = profiles


def test_the_fitted_factor_of_an_exponential_profile_is_its_factor():
    factor = 0.7
    squared_gradient = factor ** np.arange(9.0, -1.0, -1.0)
    squared_gradient[:2] = 1e6  # layers that the fit leaves out
    run = MemoryRun(signal_grad=np.sqrt(squared_gradient)[None])

    fitted = math.exp(log_factor(run, first_layer=2))

    assert fitted == pytest.approx(factor)
