"""A paper's statement, tested on recorded runs against a threshold that was set before them."""

import dataclasses
import operator
from collections.abc import Sequence

import numpy as np

from research.diagnosis.verdict import log_profile
from research.gauges.table import SIGNAL_GRAD
from research.records.runs import Run
from research.reporting.aggregation import mean_interval as mean_interval

COMPARISONS = {
    "<": operator.lt,
    "≤": operator.le,
    ">": operator.gt,
    "≥": operator.ge,
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """One statement and what was measured.

    ``expected`` names the threshold in words and numbers. ``interval`` is the range of ``measured``
    over its ``n`` independent runs (seeds, or seeds × settings), not an error bar of the mean.
    """

    statement: str
    source: str
    expected: str
    measured: float
    interval: tuple[float, float]
    n: int
    holds: bool


def claim(
    statement: str,
    *,
    source: str,
    expected: str,
    values: Sequence[float],
    holds: bool,
) -> Claim:
    """A claim about ``values``, summarised by their median and their range.

    Args:
        statement: what is claimed, and which quantity is measured.
        source: the paper or law that states it.
        expected: the threshold, in words and numbers.
        values: the measured quantity, one number for each run.
        holds: whether ``values`` meet the threshold.
    """
    array = np.asarray(values, float)
    return Claim(
        statement=statement,
        source=source,
        expected=expected,
        measured=float(np.median(array)),
        interval=(float(array.min()), float(array.max())),
        n=len(array),
        holds=bool(holds),
    )


def claim_on_every_seed(
    statement: str,
    *,
    source: str,
    values: Sequence[float],
    below: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    at_least: float | None = None,
) -> Claim:
    """A claim that every one of ``values`` is on one side of a bound.

    >>> made = claim_on_every_seed("loss", source="", values=[0.1, 0.2], below=0.5)
    >>> made.expected, made.holds
    ('< 0.5 on every seed', True)

    Args:
        statement: what is claimed, and which quantity is measured.
        source: the paper or law that states it.
        values: the measured quantity, one number for each run. A value that is not a number fails.
        below: the bound, where values must be less than it.
        at_most: the bound, where values may also be equal to it.
        above: the bound, where values must be greater than it.
        at_least: the bound, where values may also be equal to it.

    Raises:
        ValueError: not exactly one bound is given.
    """
    bounds = {"<": below, "≤": at_most, ">": above, "≥": at_least}
    given = {sign: bound for sign, bound in bounds.items() if bound is not None}
    if len(given) != 1:
        raise ValueError(f"{statement}: expected one bound, got {len(given)}")
    ((sign, bound),) = given.items()
    is_met = COMPARISONS[sign]
    return claim(
        statement,
        source=source,
        expected=f"{sign} {bound:g} on every seed",
        values=values,
        holds=all(is_met(value, bound) for value in values),
    )


def log_factor(run: Run, *, first_layer: int) -> float:
    """Ln of the factor per layer, towards the input, of the squared gradient before the first step.

    Least-squares slope of ln‖∂L/∂h_l‖² over the layers from ``first_layer`` on.
    """
    logs = log_profile(run.profiles[SIGNAL_GRAD.name][0])[first_layer:]
    slope = np.polyfit(np.arange(len(logs)), logs, 1)[0]
    return -float(slope)
