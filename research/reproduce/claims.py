"""A paper's statement, tested on recorded runs against a threshold that was set before them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from research.diagnosis.verdict import log_profile
from research.gauges.table import SIGNAL_GRAD
from research.records.runs import Run
from research.reporting.aggregation import mean_interval as mean_interval


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


def log_factor(run: Run, *, first_layer: int) -> float:
    """Ln of the factor per layer, towards the input, of the squared gradient before the first step.

    Least-squares slope of ln‖∂L/∂h_l‖² over the layers from ``first_layer`` on.
    """
    logs = log_profile(run.profiles[SIGNAL_GRAD.name][0])[first_layer:]
    slope = np.polyfit(np.arange(len(logs)), logs, 1)[0]
    return -float(slope)
