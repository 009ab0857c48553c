"""What was declared before a coefficient was fitted: the label, the sets and the thresholds.

The sets are ``draw("fit")`` and ``draw("held_out")`` of ``design.py``, from fixed seeds. The
coefficients are fitted to the first and judged on the second.
"""

import math

import numpy as np

CHANCE = math.log(10)  # the loss of guessing ten classes
MARGIN = 0.1  # a run has trained if its loss is so much of chance below chance
END = 0.1  # the loss is the mean over the last tenth of the steps; one that diverged did not train
TRAINS = 0.9  # from this probability on, the prediction is that it trains
FAILS = 0.1  # up to this probability, the prediction is that it does not
LEAST_RIGHT = 0.95  # of these predictions
LEAST_DECIDED = 0.7  # of all runs that have such a prediction


def final_loss(losses: np.ndarray) -> float:
    """The mean over the last tenth of the steps."""
    return float(losses[-max(1, round(END * len(losses))) :].mean())


def has_trained(loss: float) -> bool:
    """Whether a final loss is better than chance by the margin; NaN, of a diverged run, is not."""
    return loss <= (1 - MARGIN) * CHANCE
