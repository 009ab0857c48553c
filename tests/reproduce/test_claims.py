"""Statistics of runs that several experiments' claims use."""

import math

import numpy as np
import pytest

from research.records.runs import Run
from research.reproduce.claims import claim_on_every_seed, log_factor


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


VALUES = (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("bound", "expected", "holds"),
    [
        ({"below": 3}, "< 3 on every seed", False),
        ({"below": 3.5}, "< 3.5 on every seed", True),
        ({"at_most": 3}, "≤ 3 on every seed", True),
        ({"at_most": 2.5}, "≤ 2.5 on every seed", False),
        ({"above": 1}, "> 1 on every seed", False),
        ({"above": 1e-12}, "> 1e-12 on every seed", True),
        ({"at_least": 1}, "≥ 1 on every seed", True),
        ({"at_least": 1.5}, "≥ 1.5 on every seed", False),
    ],
)
def test_a_claim_on_every_seed_holds_for_the_worst_of_them(bound, expected, holds):
    made = claim_on_every_seed("a loss", source="", values=VALUES, **bound)

    assert made.expected == expected
    assert made.holds is holds
    assert made.interval == (1, 3)
    assert made.n == 3


@pytest.mark.parametrize("bound", ["below", "at_most", "above", "at_least"])
def test_what_is_not_a_number_meets_no_bound(bound):
    made = claim_on_every_seed("a loss", source="", values=[1, math.nan, 3], **{bound: 2})
    assert not made.holds


@pytest.mark.parametrize("bounds", [{}, {"below": 1, "above": 0}])
def test_a_claim_on_every_seed_has_one_bound(bounds):
    with pytest.raises(ValueError, match=f"a loss: expected one bound, got {len(bounds)}"):
        claim_on_every_seed("a loss", source="", values=VALUES, **bounds)
